//! Whether a history of concurrent appends to lists and reads of them is linearizable, key by key.
//!
//! Everything that was asked is an operation with two ticks of one clock: one taken before it was sent, one after it
//! was answered. Where one operation's answer has a smaller tick than another's invocation, it came before it for every
//! observer. The history is linearizable if each operation can be given one moment between its two ticks at which it
//! happens all at once, so that run in the order of these moments each read answers what an ordinary list would.
//!
//! For registers that search is exponential. Lists that are only appended to, each value once, make it sorting (the
//! idea of Elle, Kingsbury and Alvaro 2020): a list names every append before it, and in which order. So:
//!
//! 1. The longest list that was read is the order of the appends. Every other list that was read must be a prefix of
//!    it (else two readers saw two pasts: [`Wrong::Diverged`]) and hold no value twice ([`Wrong::Doubled`]), none that
//!    nobody sent ([`Wrong::Unborn`]) and none whose append is known not to have happened ([`Wrong::Undone`]).
//! 2. An acknowledged append must be in it ([`Wrong::Lost`]). This proves something only where a read was asked after
//!    all answers had come; a key without one is [`Wrong::Unread`].
//! 3. That leaves one order only: the append at place n turns the list of length n-1 into the one of length n, a read of
//!    length n stands behind it and before the next append. Its place in this order is an operation's *rank*; reads of
//!    one length have the same rank, and may stand in any order among themselves.
//! 4. An order of ranks can be given moments within the ticks exactly if no operation of a higher rank was answered
//!    before one of a lower rank was asked ([`Wrong::Order`]). (If there is no such pair, give each operation the
//!    largest invocation among itself and all lower ranks: that is not before its own, and before its answer. If there
//!    is one, no moments can exist.) Which of the two is what decides what it is called: a stale read, reads that go
//!    back, a read from the future, appends in another order than they were acknowledged in.
//! 5. An append whose answer was lost has no second tick: it may have happened at any time after its first, or never.
//!    If it is in no list it is left out; if it is, it takes part with an answer at the end of time.
//! 6. An append inside a transaction that read the list under a lock says what it saw. Then it must stand right behind
//!    that ([`Wrong::NotAtomic`]), or another append came in between.
//!
//! Linearizability is local: the whole history is linearizable if each key's is, so that keys are looked at one by one.
//! The tests below hold this against a search through all orders, on small random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A list's name.
pub type Key = u32;
/// What is appended, once in a history.
pub type Value = u64;
/// A time of the one clock.
pub type Tick = u64;

/// Something that a client asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Whose.
    pub client: u32,
    /// Of which list.
    pub key: Key,
    /// What was asked, and for reads what was answered.
    pub call: Call,
    /// Taken before it was sent.
    pub invoked: Tick,
    /// How it ended.
    pub end: End,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// To append a value; with what the same transaction had read under a lock.
    Append { value: Value, saw: Option<Vec<Value>> },
    /// To read the list, and what it was. A read without an answer says nothing and isn't in the history.
    Read { seen: Vec<Value> },
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Answered; the tick was taken after the answer.
    Done(Tick),
    /// Refused or rolled back: it hasn't happened and won't.
    Absent,
    /// The connection was lost before the answer.
    Unknown,
}

/// What a list may be wrong in. The operations are numbers into the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wrong {
    /// An acknowledged append is in no list.
    Lost { append: usize },
    /// A value stands twice in what was read.
    Doubled { read: usize, value: Value },
    /// A value that nobody appended to this list.
    Unborn { read: usize, value: Value },
    /// A value whose append was refused or rolled back.
    Undone { read: usize, append: usize },
    /// One list isn't the beginning of the longest.
    Diverged { read: usize, longest: usize },
    /// An append doesn't stand right behind what its transaction had read.
    NotAtomic { append: usize },
    /// `later` comes after `earlier` in the list's order, and was answered before `earlier` was asked.
    Order { what: Order, earlier: usize, later: usize },
    /// Nothing was read after everything else had been answered, so nothing is proved.
    Unread { key: Key },
}

/// Which order is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// A read doesn't have an append that had been acknowledged when it was asked.
    StaleRead,
    /// A read has less than another one that had been answered when it was asked.
    ReadsGoBack,
    /// A read has a value that nobody had sent yet.
    FutureRead,
    /// An append stands behind one that was sent only after it had been acknowledged.
    Appends,
}

/// What a correct history holds, so that a test can see that it wasn't empty.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Sound {
    /// Lists.
    pub keys: usize,
    /// Reads that were answered.
    pub reads: usize,
    /// Appends that were acknowledged.
    pub appends: usize,
    /// Appends that were rolled back or refused.
    pub absent: usize,
    /// Appends whose answer was lost, and how many of these have happened.
    pub unknown: usize,
    pub unknown_there: usize,
    /// The order of every list.
    pub lists: BTreeMap<Key, Vec<Value>>,
}

/// Checks a history in which every value was appended by one operation.
pub fn check(history: &[Operation]) -> Result<Sound, Vec<Wrong>> {
    let mut keys: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
    let mut values = BTreeSet::new();
    for (index, operation) in history.iter().enumerate() {
        keys.entry(operation.key).or_default().push(index);
        if let Call::Append { value, .. } = operation.call {
            assert!(values.insert(value), "{value} was sent twice: this history can't be checked");
        }
        if let End::Done(at) = operation.end {
            assert!(operation.invoked < at, "answered before it was asked: {operation:?}");
        }
    }
    let mut sound = Sound { keys: keys.len(), ..Sound::default() };
    let mut wrong = Vec::new();
    for (key, of) in keys {
        let list = List::new(history, key, of);
        list.lengths(&mut wrong);
        list.presence(&mut wrong, &mut sound);
        list.order(&mut wrong);
        sound.lists.insert(key, list.longest().to_vec());
    }
    wrong.sort_unstable();
    if wrong.is_empty() { Ok(sound) } else { Err(wrong) }
}

/// One key of a history.
struct List<'h> {
    history: &'h [Operation],
    key: Key,
    reads: Vec<(usize, &'h [Value])>,
    appends: BTreeMap<Value, usize>,
    /// The read with the longest list.
    longest: usize,
    /// The place of each value in it, from one.
    places: BTreeMap<Value, usize>,
}

impl<'h> List<'h> {
    fn new(history: &'h [Operation], key: Key, of: Vec<usize>) -> Self {
        let mut list = Self {
            history,
            key,
            reads: Vec::new(),
            appends: BTreeMap::new(),
            longest: 0,
            places: BTreeMap::new(),
        };
        for index in of {
            match &history[index].call {
                Call::Append { value, .. } => {
                    list.appends.insert(*value, index);
                }
                Call::Read { seen } => list.reads.push((index, seen)),
            }
        }
        list.longest = (0..list.reads.len()).max_by_key(|at| list.reads[*at].1.len()).unwrap_or(0);
        for (at, value) in list.longest().iter().enumerate() {
            list.places.entry(*value).or_insert(at + 1);
        }
        list
    }

    fn longest(&self) -> &'h [Value] {
        self.reads.get(self.longest).map_or(&[], |(_, seen)| seen)
    }

    /// Rule 1.
    fn lengths(&self, wrong: &mut Vec<Wrong>) {
        for (read, seen) in &self.reads {
            if !self.longest().starts_with(seen) {
                wrong.push(Wrong::Diverged { read: *read, longest: self.reads[self.longest].0 });
            }
        }
        let Some((read, seen)) = self.reads.get(self.longest) else { return };
        for (at, value) in seen.iter().enumerate() {
            if self.places[value] != at + 1 {
                wrong.push(Wrong::Doubled { read: *read, value: *value });
            }
            match self.appends.get(value) {
                None => wrong.push(Wrong::Unborn { read: *read, value: *value }),
                Some(append) if self.history[*append].end == End::Absent => {
                    wrong.push(Wrong::Undone { read: *read, append: *append });
                }
                Some(_) => {}
            }
        }
    }

    /// Rules 2 and 6, and the counts.
    fn presence(&self, wrong: &mut Vec<Wrong>, sound: &mut Sound) {
        sound.reads += self.reads.len();
        let mut answered = None;
        for (value, append) in &self.appends {
            let operation = &self.history[*append];
            let place = self.places.get(value);
            match operation.end {
                End::Done(at) => {
                    sound.appends += 1;
                    answered = answered.max(Some(at));
                    if place.is_none() {
                        wrong.push(Wrong::Lost { append: *append });
                    }
                }
                End::Absent => sound.absent += 1,
                End::Unknown => {
                    sound.unknown += 1;
                    sound.unknown_there += usize::from(place.is_some());
                }
            }
            if let (Call::Append { saw: Some(saw), .. }, Some(place)) = (&operation.call, place)
                && self.longest()[..place - 1] != saw[..]
            {
                wrong.push(Wrong::NotAtomic { append: *append });
            }
        }
        let last = self.reads.iter().map(|(read, _)| self.history[*read].invoked).max();
        if answered.is_some() && last < answered {
            wrong.push(Wrong::Unread { key: self.key });
        }
    }

    /// Rules 3 to 5: from the highest rank down, the earliest answer of all higher ones must not be before an invocation.
    fn order(&self, wrong: &mut Vec<Wrong>) {
        let appends = self.appends.iter().filter_map(|(value, append)| {
            let place = self.places.get(value)?;
            (self.history[*append].end != End::Absent).then_some((2 * place, *append))
        });
        let reads = self.reads.iter().map(|(read, seen)| (2 * seen.len() + 1, *read));
        let mut ranked: Vec<(usize, usize)> = appends.chain(reads).collect();
        ranked.sort_unstable();
        let mut earliest: Option<(Tick, usize)> = None;
        for same in ranked.chunk_by(|a, b| a.0 == b.0).rev() {
            for (_, earlier) in same {
                if let Some((answered, later)) = earliest
                    && answered < self.history[*earlier].invoked
                {
                    let what = self.what(*earlier, later);
                    wrong.push(Wrong::Order { what, earlier: *earlier, later });
                }
            }
            let answers = same.iter().filter_map(|(_, index)| match self.history[*index].end {
                End::Done(at) => Some((at, *index)),
                End::Absent | End::Unknown => None,
            });
            earliest = answers.chain(earliest).min();
        }
    }

    fn what(&self, earlier: usize, later: usize) -> Order {
        match (&self.history[earlier].call, &self.history[later].call) {
            (Call::Read { .. }, Call::Append { .. }) => Order::StaleRead,
            (Call::Read { .. }, Call::Read { .. }) => Order::ReadsGoBack,
            (Call::Append { .. }, Call::Read { .. }) => Order::FutureRead,
            (Call::Append { .. }, Call::Append { .. }) => Order::Appends,
        }
    }
}

impl Wrong {
    /// A sentence with the operations that it is about. Of a long list only the end is shown.
    pub fn explain(&self, history: &[Operation]) -> String {
        let show = |index: usize| Shown(&history[index]).to_string();
        match *self {
            Wrong::Lost { append } => format!("LOST: {}", show(append)),
            Wrong::Doubled { read, value } => format!("{value} is there twice: {}", show(read)),
            Wrong::Unborn { read, value } => format!("nobody appended {value}: {}", show(read)),
            Wrong::Undone { read, append } => format!("{} has not happened: {}", show(append), show(read)),
            Wrong::Diverged { read, longest } => format!("two pasts: {} and {}", show(read), show(longest)),
            Wrong::NotAtomic { append } => format!("something came in between: {}", show(append)),
            Wrong::Order { what, earlier, later } => {
                format!("{what:?}: {} was answered before {} was asked", show(later), show(earlier))
            }
            Wrong::Unread { key } => format!("list {key} wasn't read at the end"),
        }
    }
}

struct Shown<'h>(&'h Operation);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Operation { client, key, call, invoked, end } = self.0;
        let tail =
            |list: &[Value]| format!("{} ending in {:?}", list.len(), &list[list.len().saturating_sub(5)..]);
        match call {
            Call::Append { value, saw } => {
                write!(f, "client {client} appends {value} to {key}")?;
                saw.iter().try_for_each(|saw| write!(f, " behind {}", tail(saw)))?;
            }
            Call::Read { seen } => write!(f, "client {client} reads {key}: {}", tail(seen))?,
        }
        write!(f, " [{invoked}, {end:?}]")
    }
}
