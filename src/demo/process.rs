//! Child processes that can't outlive this one, however it ends. The demo and the end-to-end tests share it.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use rustix::process::{Pid, Signal};

/// A child in a process group of its own, killed with its group when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` with both of its outputs appended to `log`. The kernel kills it when this process dies,
    /// even by `kill -9`: `setpriv --pdeathsig` asks for that, since asking from Rust takes an unsafe block.
    pub(crate) fn start(command: &Command, log: &Path) -> io::Result<Self> {
        let setpriv = Path::new("/usr/bin/setpriv");
        let mut guarded = if setpriv.exists() {
            let mut guarded = Command::new(setpriv);
            guarded.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program());
            guarded
        } else {
            Command::new(command.get_program())
        };
        guarded.args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => guarded.env(key, value),
                None => guarded.env_remove(key),
            };
        }
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        // A group of its own: Ctrl-C in a terminal goes to the parent alone, which ends its children in order.
        guarded.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        Ok(Self { child: spawn(guarded)? })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Option<Pid> {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
    }

    /// Ends it and its children at once, as the kernel would in want of memory.
    pub(crate) fn kill_9(&mut self) {
        if let Some(pid) = self.pid() {
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that was waited for has no id any more that could be trusted.
        if self.ended().is_none() {
            self.kill_9();
        }
    }
}

/// The death signal comes when the *thread* that started the child ends, so one thread that lives as long as
/// this process starts all of them.
fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let gone = || io::Error::other("the thread that starts processes is gone");
    let (reply, answer) = channel();
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}
