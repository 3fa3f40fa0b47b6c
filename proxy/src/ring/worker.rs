//! Worker threads: each runs the tasks of its sessions and sleeps in its ring.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::Waker;
use std::thread;

use async_task::Runnable;
use config::Scheduling;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use tokio::runtime::Handle;
use tracing::error;

use super::driver::Driver;
use super::scheduling;

/// Tasks that run before the ring is looked at again.
const TASKS_A_TURN: usize = 64;
/// A worker without a ring looks so often whether something was left for it.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// What a worker's thread has of its own.
struct Here {
    shelf: Arc<Shelf>,
    driver: Driver,
    ready: VecDeque<Runnable>,
}

/// Where others leave what is for a worker.
#[derive(Debug)]
pub(super) struct Shelf {
    left: Mutex<Left>,
    /// Something was left since the worker looked last.
    is_full: AtomicBool,
    /// The worker sleeps, or is about to: ring the bell.
    is_asleep: AtomicBool,
    bell: OwnedFd,
    /// Sessions that live there.
    sessions: AtomicUsize,
    /// Its ring has failed.
    is_gone: AtomicBool,
    /// Its ring is to fail.
    #[cfg(test)]
    breaks: AtomicBool,
}

#[derive(Debug, Default)]
struct Left {
    tasks: Vec<Runnable>,
    closed: Vec<usize>,
    is_over: bool,
}

impl Shelf {
    fn new() -> io::Result<(Arc<Self>, OwnedFd)> {
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
        let other = bell.try_clone()?;
        let shelf = Self {
            left: Mutex::default(),
            is_full: AtomicBool::new(false),
            is_asleep: AtomicBool::new(false),
            bell,
            sessions: AtomicUsize::new(0),
            is_gone: AtomicBool::new(false),
            #[cfg(test)]
            breaks: AtomicBool::new(false),
        };
        Ok((Arc::new(shelf), other))
    }

    /// The worker that this thread is; `None` for any other thread.
    pub(super) fn of_this_thread() -> Option<Arc<Self>> {
        HERE.with_borrow(|here| here.as_ref().map(|here| Arc::clone(&here.shelf)))
    }

    /// A socket was dropped away from its worker.
    pub(super) fn close_later(&self, key: usize) {
        self.leave(|left| left.closed.push(key));
    }

    fn leave(&self, what: impl FnOnce(&mut Left)) {
        what(&mut self.left.lock().unwrap_or_else(PoisonError::into_inner));
        // First left, then said. The worker says that it sleeps before it looks for the last time, so one of
        // the two sees the other.
        self.is_full.store(true, SeqCst);
        if self.is_asleep.swap(false, SeqCst) {
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    fn take(&self) -> Left {
        self.is_full.store(false, SeqCst);
        std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A task is to run.
    fn schedule(self: &Arc<Self>, task: Runnable) {
        let mut task = Some(task);
        HERE.with_borrow_mut(|here| {
            if let Some(here) = here.as_mut().filter(|here| Arc::ptr_eq(&here.shelf, self)) {
                here.ready.extend(task.take());
            }
        });
        if let Some(task) = task {
            self.leave(|left| left.tasks.push(task));
        }
    }
}

/// Works on this thread's ring, which has to be the one of `shelf`.
pub(super) fn with_driver<T>(
    shelf: &Arc<Shelf>,
    work: impl FnOnce(&mut Driver) -> io::Result<T>,
) -> io::Result<T> {
    HERE.with_borrow_mut(|here| match here {
        Some(here) if Arc::ptr_eq(&here.shelf, shelf) => work(&mut here.driver),
        _ => Err(io::Error::other("a session's socket was used away from its worker")),
    })
}

/// The workers that sessions are spread over.
#[derive(Debug)]
pub(crate) struct Workers {
    shelves: Vec<Arc<Shelf>>,
}

impl Workers {
    /// Starts so many threads; an error where the system has no ring to give.
    pub(crate) fn start(count: usize, scheduling: Scheduling) -> io::Result<Self> {
        let mut workers = Self { shelves: Vec::new() };
        for number in 0..count.max(1) {
            workers.shelves.push(start(number, scheduling, Handle::current())?);
        }
        Ok(workers)
    }

    /// Runs a session on the worker that has the fewest; on tokio's where no ring is left.
    pub(crate) fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        let alive = self.shelves.iter().filter(|shelf| !shelf.is_gone.load(Relaxed));
        let Some(shelf) = alive.min_by_key(|shelf| shelf.sessions.load(Relaxed)) else {
            tokio::spawn(session);
            return;
        };
        let counted = Counted::new(shelf);
        let shelf = Arc::clone(shelf);
        let (task, handle) = async_task::spawn(
            async move {
                session.await;
                drop(counted);
            },
            move |task| shelf.schedule(task),
        );
        handle.detach();
        task.schedule();
    }
}

#[cfg(test)]
impl Shelf {
    fn is_to_fail(&self) -> io::Result<()> {
        if self.breaks.load(SeqCst) { Err(io::Error::other("as asked for by the test")) } else { Ok(()) }
    }
}

#[cfg(test)]
impl Workers {
    /// Lets every ring fail, as the system might.
    pub(crate) fn break_rings(&self) {
        for shelf in &self.shelves {
            shelf.breaks.store(true, SeqCst);
            shelf.leave(|_| {});
        }
    }

    /// Sessions that live on a worker.
    pub(super) fn sessions(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.sessions.load(Relaxed)).sum()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for shelf in &self.shelves {
            shelf.leave(|left| left.is_over = true);
        }
    }
}

/// One of a worker's sessions.
struct Counted(Arc<Shelf>);

impl Counted {
    fn new(shelf: &Arc<Shelf>) -> Self {
        shelf.sessions.fetch_add(1, Relaxed);
        Self(Arc::clone(shelf))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Relaxed);
    }
}

fn start(number: usize, scheduling: Scheduling, runtime: Handle) -> io::Result<Arc<Shelf>> {
    let (shelf, bell) = Shelf::new()?;
    let (tell, told) = mpsc::sync_channel(1);
    let of_thread = Arc::clone(&shelf);
    let thread = thread::Builder::new().name(format!("relay-{number}"));
    thread.spawn(move || {
        // A ring belongs to the thread that makes it.
        let made = Driver::new(bell).map(|driver| {
            HERE.set(Some(Here { shelf: Arc::clone(&of_thread), driver, ready: VecDeque::new() }));
        });
        let is_made = made.is_ok();
        let _ = tell.send(made);
        if is_made {
            if scheduling == Scheduling::Batch {
                scheduling::wait_for_turn();
            }
            let _runtime = runtime.enter();
            let ended = run(&of_thread);
            // Taken from its place first: what is dropped with it may look for it.
            let here = HERE.take();
            match ended {
                Ok(()) => drop(here),
                Err(error) => {
                    of_thread.is_gone.store(true, Relaxed);
                    error!(area = "proxy", "a worker's ring failed, and its sessions are closed: {error}");
                    wind_up(&of_thread, here);
                }
            }
        }
    })?;
    told.recv().map_err(io::Error::other)??;
    Ok(shelf)
}

/// The worker's life.
fn run(shelf: &Shelf) -> io::Result<()> {
    let mut woken = Vec::new();
    loop {
        for _ in 0..TASKS_A_TURN {
            let Some(task) = HERE.with_borrow_mut(|here| here.as_mut()?.ready.pop_front()) else { break };
            run_one(task);
        }
        if shelf.is_full.load(SeqCst) {
            let left = shelf.take();
            if left.is_over {
                return Ok(());
            }
            HERE.with_borrow_mut(|here| {
                let Some(here) = here else { return };
                here.ready.extend(left.tasks);
                left.closed.iter().for_each(|key| here.driver.close(*key));
            });
        }
        let turned = turn(shelf, &mut woken);
        // Also where the ring has failed: what was done before that is waited for.
        woken.drain(..).for_each(Waker::wake);
        turned?;
    }
}

/// What is left to do where the ring has failed. Its sessions run on: each finds that its sockets don't work any more,
/// and ends as it does when a connection breaks, giving back what it holds. A session that was on its way here finds
/// no ring, and lives on tokio's sockets.
fn wind_up(shelf: &Arc<Shelf>, here: Option<Here>) {
    let _ = rustix::io::ioctl_fionbio(&shelf.bell, true);
    if let Some(Here { driver, ready, .. }) = here {
        ready.into_iter().for_each(run_one);
        driver.give_up().into_iter().for_each(Waker::wake);
    }
    loop {
        let left = shelf.take();
        if left.is_over {
            return;
        }
        left.tasks.into_iter().for_each(run_one);
        shelf.is_asleep.store(true, SeqCst);
        if !shelf.is_full.load(SeqCst) {
            let mut bell = [PollFd::new(&shelf.bell, PollFlags::IN)];
            // Not for ever: the ring that failed may have swallowed a ring of the bell.
            let _ = rustix::event::poll(&mut bell, Some(&LOOK_AGAIN));
            let _ = rustix::io::read(&shelf.bell, &mut [0_u8; 8]);
        }
        shelf.is_asleep.store(false, SeqCst);
    }
}

/// As tokio does it: a panic ends its own task.
fn run_one(task: Runnable) {
    let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
}

/// Lets the ring work, and sleeps in it where there is nothing else to do.
fn turn(shelf: &Shelf, woken: &mut Vec<Waker>) -> io::Result<()> {
    HERE.with_borrow_mut(|here| {
        let Some(here) = here else { return Ok(()) };
        if !here.ready.is_empty() {
            return here.driver.turn(false, woken);
        }
        // Before it sleeps as well: what the test left may have been taken already.
        #[cfg(test)]
        shelf.is_to_fail()?;
        shelf.is_asleep.store(true, SeqCst);
        let done = here.driver.turn(!shelf.is_full.load(SeqCst), woken);
        shelf.is_asleep.store(false, SeqCst);
        #[cfg(test)]
        shelf.is_to_fail()?;
        done
    })
}
