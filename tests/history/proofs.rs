//! The checker is checked: by hand-made histories of each kind of wrong, and against a search through all orders.

use super::checker::{Call, End, Operation, Order, Wrong, check};

const KEY: u32 = 1;

fn append(value: u64, invoked: u64, end: End) -> Operation {
    Operation { client: 0, key: KEY, call: Call::Append { value, saw: None }, invoked, end }
}

fn behind(saw: &[u64], value: u64, invoked: u64, answered: u64) -> Operation {
    let call = Call::Append { value, saw: Some(saw.to_vec()) };
    Operation { client: 0, key: KEY, call, invoked, end: End::Done(answered) }
}

fn read(seen: &[u64], invoked: u64, answered: u64) -> Operation {
    let call = Call::Read { seen: seen.to_vec() };
    Operation { client: 0, key: KEY, call, invoked, end: End::Done(answered) }
}

#[track_caller]
fn holds(history: &[Operation]) {
    check(history).unwrap_or_else(|wrong| panic!("{wrong:?}"));
}

#[track_caller]
fn is_wrong(history: &[Operation], wanted: &[Wrong]) {
    assert_eq!(check(history).unwrap_err(), wanted);
    // Every finding can be told.
    assert!(wanted.iter().all(|wrong| !wrong.explain(history).is_empty()));
}

use End::{Absent, Done, Unknown};

#[test]
fn one_after_the_other_holds() {
    holds(&[append(1, 0, Done(1)), read(&[1], 2, 3), append(2, 4, Done(5)), read(&[1, 2], 6, 7)]);
}

#[test]
fn what_happens_at_the_same_time_may_go_either_way() {
    for order in [[1, 2], [2, 1]] {
        holds(&[append(1, 0, Done(10)), append(2, 1, Done(11)), read(&order, 12, 13)]);
    }
    for seen in [&[][..], &[1]] {
        holds(&[append(1, 0, Done(10)), read(seen, 1, 9), read(&[1], 11, 12)]);
    }
    holds(&[append(1, 0, Done(10)), read(&[], 1, 9), read(&[1], 2, 8), read(&[], 3, 7), read(&[1], 11, 12)]);
}

#[test]
fn a_lost_append_is_found() {
    let history = [append(1, 0, Done(1)), append(2, 2, Done(3)), read(&[1], 4, 5)];
    is_wrong(&history, &[Wrong::Lost { append: 1 }]);
}

#[test]
fn a_lost_append_in_the_middle_is_found() {
    let history = [append(1, 0, Done(1)), append(2, 2, Done(3)), append(3, 4, Done(5)), read(&[1, 3], 6, 7)];
    is_wrong(&history, &[Wrong::Lost { append: 1 }]);
}

#[test]
fn a_doubled_append_is_found() {
    for end in [Done(1), Unknown] {
        let history = [append(1, 0, end), append(2, 2, Done(3)), read(&[1, 2, 1], 4, 5)];
        is_wrong(&history, &[Wrong::Doubled { read: 2, value: 1 }]);
    }
}

#[test]
fn reordered_appends_are_found() {
    let history = [append(1, 0, Done(1)), append(2, 2, Done(3)), read(&[2, 1], 4, 5)];
    is_wrong(&history, &[Wrong::Order { what: Order::Appends, earlier: 1, later: 0 }]);
}

#[test]
fn a_stale_read_is_found() {
    let history = [append(1, 0, Done(1)), read(&[], 2, 3), read(&[1], 4, 5)];
    is_wrong(&history, &[Wrong::Order { what: Order::StaleRead, earlier: 1, later: 0 }]);
}

#[test]
fn reads_that_go_back_are_found() {
    // The append isn't acknowledged yet, so that neither read is wrong by itself.
    let history = [append(1, 0, Done(10)), read(&[1], 1, 2), read(&[], 3, 4), read(&[1], 11, 12)];
    is_wrong(&history, &[Wrong::Order { what: Order::ReadsGoBack, earlier: 2, later: 1 }]);
}

#[test]
fn a_read_from_the_future_is_found() {
    for end in [Done(3), Unknown] {
        let history = [read(&[1], 0, 1), append(1, 2, end), read(&[1], 4, 5)];
        is_wrong(&history, &[Wrong::Order { what: Order::FutureRead, earlier: 1, later: 0 }]);
    }
}

#[test]
fn two_pasts_are_found() {
    let history = [append(1, 0, Done(9)), append(2, 0, Done(9)), read(&[2], 1, 2), read(&[1, 2], 10, 11)];
    let wrong = check(&history).unwrap_err();
    assert!(wrong.contains(&Wrong::Diverged { read: 2, longest: 3 }), "{wrong:?}");
}

#[test]
fn values_from_nowhere_and_undone_ones_are_found() {
    is_wrong(&[append(1, 0, Done(1)), read(&[1, 7], 2, 3)], &[Wrong::Unborn { read: 1, value: 7 }]);
    is_wrong(&[append(1, 0, Absent), read(&[1], 2, 3)], &[Wrong::Undone { read: 1, append: 0 }]);
}

#[test]
fn a_value_in_another_list_is_from_nowhere() {
    let mut other = append(1, 0, Unknown);
    other.key = KEY + 1;
    is_wrong(&[other, read(&[1], 2, 3)], &[Wrong::Unborn { read: 1, value: 1 }]);
}

#[test]
fn an_unknown_append_happened_or_not_and_at_any_time_after() {
    holds(&[append(1, 0, Unknown), read(&[], 2, 3)]);
    holds(&[append(1, 0, Unknown), read(&[1], 2, 3)]);
    holds(&[
        append(1, 0, Unknown),
        read(&[], 2, 3),
        append(2, 4, Done(5)),
        read(&[2], 6, 7),
        read(&[2, 1], 8, 9),
    ]);
    is_wrong(
        &[append(1, 0, Unknown), read(&[1], 2, 3), read(&[], 4, 5)],
        &[Wrong::Order { what: Order::ReadsGoBack, earlier: 2, later: 1 }],
    );
}

#[test]
fn a_transaction_that_lost_its_lock_is_found() {
    holds(&[append(1, 0, Done(9)), behind(&[1], 2, 0, 9), read(&[1, 2], 10, 11)]);
    let history = [append(1, 0, Done(9)), behind(&[], 2, 0, 9), read(&[1, 2], 10, 11)];
    is_wrong(&history, &[Wrong::NotAtomic { append: 1 }]);
}

#[test]
fn a_list_that_nobody_read_at_the_end_proves_nothing() {
    is_wrong(&[append(1, 0, Done(5)), read(&[1], 1, 9)], &[Wrong::Unread { key: KEY }]);
}

/// Dice whose throws follow from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

/// A small history: operations at moments of an ordinary list, each between its two ticks, then often spoiled.
fn random_history(dice: &mut Dice) -> Vec<Operation> {
    let mut list: Vec<u64> = Vec::new();
    let mut history = Vec::new();
    let mut ticks: Vec<(usize, usize, usize)> = Vec::new();
    for moment in 1..=3 + dice.below(4) {
        // A hundred ticks a moment, and each operation reaches over its neighbours.
        let at = 1_000 + 100 * moment;
        ticks.push((at - 1 - dice.below(250), at + 1 + dice.below(250), moment));
        let end = [Done(0), Done(0), Unknown, Absent][dice.below(4)];
        if dice.below(2) == 0 {
            let value = moment as u64;
            let saw = (dice.below(3) == 0).then(|| list.clone());
            if end != Absent && (end != Unknown || dice.below(2) == 0) {
                list.push(value);
            }
            history.push(Operation {
                client: 0,
                key: KEY,
                call: Call::Append { value, saw },
                invoked: 0,
                end,
            });
        } else {
            history.push(read(&list, 0, 0));
        }
    }
    for (operation, (invoked, answered, _)) in history.iter_mut().zip(&ticks) {
        operation.invoked = *invoked as u64;
        if let Done(_) = operation.end {
            operation.end = Done(*answered as u64);
        }
    }
    history.push(read(&list, 10_000, 10_001));
    if dice.below(3) > 0 {
        let at = dice.below(history.len());
        let (shift, other) = (dice.below(400) as u64, dice.below(7) as u64);
        let operation = &mut history[at];
        match (&mut operation.call, dice.below(4)) {
            (_, 0) => {
                operation.invoked += shift;
                if let Done(answered) = operation.end {
                    operation.end = Done(answered + shift);
                }
            }
            (Call::Read { seen }, 1) => drop(seen.pop()),
            (Call::Read { seen }, 2) => seen.push(other),
            (Call::Read { seen }, _) => seen.reverse(),
            (Call::Append { saw, .. }, 1) => *saw = None,
            (Call::Append { .. }, 2) => operation.end = Unknown,
            (Call::Append { saw, .. }, _) => *saw = Some(vec![other]),
        }
    }
    history
}

/// Whether there is an order of all operations that an ordinary list could have had: every order is tried.
fn search(left: &[&Operation], list: &[u64]) -> bool {
    let must: Vec<&&Operation> = left.iter().filter(|operation| matches!(operation.end, Done(_))).collect();
    if must.is_empty() {
        return true;
    }
    let first_answer = must.iter().filter_map(|o| if let Done(at) = o.end { Some(at) } else { None }).min();
    (0..left.len()).any(|at| {
        let operation = left[at];
        // Whatever was answered before this one was asked must come first.
        if operation.end == Absent || first_answer.is_some_and(|answered| answered < operation.invoked) {
            return false;
        }
        let rest: Vec<&Operation> =
            left.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, o)| *o).collect();
        match &operation.call {
            Call::Read { seen } => seen == list && search(&rest, list),
            Call::Append { value, saw } => {
                let after: Vec<u64> = list.iter().chain([value]).copied().collect();
                saw.as_ref().is_none_or(|saw| saw == list) && search(&rest, &after)
            }
        }
    })
}

#[test]
fn it_says_what_a_search_through_all_orders_says() {
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..20_000 {
        let history = random_history(&mut Dice(seed));
        let all: Vec<&Operation> = history.iter().collect();
        let found = check(&history);
        // Where the end of the history isn't known nothing is claimed.
        if found.as_ref().is_err_and(|all| all.iter().any(|wrong| matches!(wrong, Wrong::Unread { .. }))) {
            continue;
        }
        let searched = search(&all, &[]);
        assert_eq!(found.is_ok(), searched, "seed {seed}: {found:?} of {history:#?}");
        if searched { right += 1 } else { wrong += 1 }
    }
    assert!(right > 2_000 && wrong > 2_000, "{right} right, {wrong} wrong: not much of a comparison");
}
