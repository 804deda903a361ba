//! Why a worker couldn't be started.

use std::io;

use crate::process::Recipe;
use crate::roster::Refused;

/// What a start needs from the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Memory,
    Socket,
    Program,
    Watch,
}

/// A worker that couldn't be started: what the system refused.
#[derive(Debug)]
pub struct NoStart {
    pub step: Step,
    pub error: io::Error,
}

impl NoStart {
    pub(crate) fn at(step: Step) -> impl Fn(io::Error) -> Self {
        move |error| Self { step, error }
    }

    /// What to tell the user.
    #[must_use]
    pub fn refused(&self, recipe: &Recipe) -> Refused {
        let number = self.error.raw_os_error().unwrap_or(0);
        let call = match self.step {
            Step::Memory => "memfd_create",
            Step::Socket => "socketpair",
            Step::Program => "clone",
            Step::Watch => "pidfd_open",
        };
        let (reason, cure, may_pass) = match (self.step, number) {
            (_, libc::EMFILE) => (
                "this process has no free file descriptor for a worker".into(),
                "close files, or raise the limit (`ulimit -n`)",
                true,
            ),
            (_, libc::ENFILE) => {
                ("the system has no free file descriptor".into(), "close files of other programs", true)
            }
            (_, libc::ENOMEM) => ("the system has no memory for a worker".into(), "free memory", true),
            (Step::Program, libc::EAGAIN) => (
                "the system starts no more processes for this user".into(),
                "end other processes, or raise the limit (`ulimit -u`, or the container's pids limit)",
                true,
            ),
            (Step::Memory | Step::Socket | Step::Watch, libc::ENOSYS | libc::EPERM | libc::EACCES | libc::EINVAL) => (
                format!("the system refuses {call}, which isolated calls need: {}", self.error),
                "run on Linux 5.3 or newer, in a container whose seccomp profile allows the call; or use lane=\"direct\"",
                false,
            ),
            (Step::Program, _) => {
                (format!("{} doesn't start: {}", recipe.program.display(), self.error), "nif-lab build", false)
            }
            _ => (format!("{call}: {}", self.error), "nif-lab doctor", false),
        };
        Refused { reason, cure: cure.into(), may_pass }
    }
}
