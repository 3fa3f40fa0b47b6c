//! Child processes that can't outlive the test run, however it ends.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A child in a process group of its own, killed with its group when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts `command`. The kernel kills it when this test run dies, even by `kill -9`: `setpriv
    /// --pdeathsig` asks for that, since asking from Rust takes an unsafe block.
    pub fn start(name: impl Into<String>, command: &Command) -> io::Result<Self> {
        let mut guarded = Command::new("setpriv");
        guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        guarded.process_group(0);
        Ok(Self { name: name.into(), child: spawn(guarded)? })
    }

    /// What the program is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Ends it as the kernel would in want of memory: at once, nothing flushed.
    pub fn kill_9(&mut self) {
        self.signal_group(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Sends a signal to the process itself.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub async fn wait_end(&mut self, deadline: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(began.elapsed() < deadline, "{} didn't end within {deadline:?}", self.name);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_9();
    }
}

/// The death signal comes when the *thread* that started the child ends, so one thread that lives as long as
/// the test run starts all of them.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let child = command.spawn();
                drop(command);
                let _ = reply.send(child);
            }
        });
        orders
    });
    let (reply, answer) = channel();
    spawner.send((command, reply)).expect("the spawner lives as long as the test run");
    answer.recv().expect("the spawner answers")
}
