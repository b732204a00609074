//! libcontainer's last step done our way: find the program, confine, execute.

use std::{
    collections::HashMap,
    ffi::CString,
    fs::File,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    rc::Rc,
};

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::{Process, Spec};
use rustix::fs::{Access, AtFlags, CWD, Mode, accessat};

use super::{
    confine::{change_profile, confine, own_proc},
    error::{Failure, Stage},
    halt,
    init::Ready,
    protocol::HookState,
    server::c,
};
use crate::{
    model::{CapabilitySets, Hook},
    sys::{fork::exit, process, program},
};

/// What init does when it is started.
#[derive(Clone)]
pub(super) struct LastStep {
    pub capabilities: CapabilitySets,
    pub seccomp: Option<Vec<u8>>,
    pub apparmor: Option<String>,
    /// Told as soon as init has nothing left to do but to wait.
    pub ready: Rc<Ready>,
    /// Closes at a successful exec; otherwise gets the failure first.
    pub started: Rc<File>,
    /// Run once init is confined, before its program; libcontainer would run them before.
    pub hooks: Vec<Hook>,
    /// What they are told, but for the pid.
    pub state: HookState,
}

impl Executor for LastStep {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        process::close_numbers(halt::SOCKET, halt::SOCKET);
        let attempt = || {
            // Refused before the create is answered, not after the start.
            let process = process_of(spec)?;
            find(&args_of(process)?[0], env_of(process))?;
            self.ready.tell()
        };
        attempt().map_err(|failure| ExecutorValidationError::ArgValidationError(carry(&failure)))
    }

    /// The environment goes to execve(2) as the spec has it.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let failure = self.replace(spec);
        let text = serde_json::to_vec(&failure).unwrap_or_default();
        let _ = (&*self.started).write_all(&text);
        // As shells tell it: 127 not found, 126 found but not executable.
        exit(if failure.errno == Some(libc::ENOENT) { 127 } else { 126 })
    }
}

impl LastStep {
    /// Becomes the container's process, or says why not.
    fn replace(&self, spec: &Spec) -> Failure {
        let attempt = || -> Result<(), Failure> {
            let process = process_of(spec)?;
            if process.user().umask().is_none() {
                rustix::process::umask(Mode::from_raw_mode(0o022));
            }
            let no_new_privs = process.no_new_privileges() == Some(true);
            let program = Program::new(args_of(process)?, env_of(process))?;
            // A hook need not read what it is told.
            process::ignore_signals(!self.hooks.is_empty(), false);
            if let Some(profile) = &self.apparmor {
                change_profile(own_proc()?.as_fd(), profile)?;
            }
            confine(&self.capabilities, self.seccomp.as_deref(), no_new_privs)?;
            if !self.hooks.is_empty() {
                self.run_hooks(process)?;
                process::ignore_signals(false, false);
            }
            Err(program.execute())
        };
        match attempt() {
            Ok(()) => Failure::said(Stage::Executable, "nothing was executed"),
            Err(failure) => failure,
        }
    }
}

impl LastStep {
    /// As the container: its user, its limits, its files.
    fn run_hooks(&self, process: &Process) -> Result<(), Failure> {
        let state = HookState {
            pid: Some(rustix::process::getpid().as_raw_nonzero().get().unsigned_abs()),
            ..self.state.clone()
        };
        let input = serde_json::to_vec(&state).unwrap_or_default();
        for hook in &self.hooks {
            let own = if hook.env.is_empty() {
                env_of(process)
            } else {
                &hook.env
            };
            let ran = program::run(&program::Program {
                path: &hook.path,
                args: &hook.args,
                env: own,
                cwd: process.cwd(),
                input: &input,
                most_output: 0,
                limit: hook.limit(),
            });
            ran.map_err(|why| Failure::said(Stage::Hook, format!("{hook}: {why}")))?;
        }
        Ok(())
    }
}

/// A program found, with everything execve(2) needs already in place.
pub(super) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    /// Looks up `args[0]` in the PATH of `env`, from inside the container.
    pub fn new(args: &[String], env: &[String]) -> Result<Self, Failure> {
        let first = args
            .first()
            .ok_or_else(|| Failure::said(Stage::Executable, "no arguments"))?;
        let path = find(first, env)?;
        let strings = |list: &[String]| list.iter().map(|s| c(s.as_str())).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            path: c(path.into_os_string().into_encoded_bytes())?,
            args: strings(args)?,
            env: strings(env)?,
        })
    }

    /// Returns only when it failed.
    pub fn execute(&self) -> Failure {
        let name = format!("\"{}\"", self.path.to_string_lossy());
        match process::exec(&self.path, &self.args, &self.env) {
            Ok(never) => match never {},
            // The file exists, so it is its interpreter that does not.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                Failure::new(Stage::Executable, format!("{name} or the interpreter it names"), error)
            }
            Err(error) => Failure::new(Stage::Executable, name, error),
        }
    }
}

/// Packs a failure into the one string that libcontainer passes from init to the helper.
fn carry(failure: &Failure) -> String {
    format!("{CARRIED}{}", serde_json::to_string(failure).unwrap_or_default())
}

/// Finds a failure packed by [`carry`] in a foreign error text.
pub(super) fn carried(text: &str) -> Option<Failure> {
    let (_, json) = text.split_once(CARRIED)?;
    serde_json::Deserializer::from_str(json).into_iter().next()?.ok()
}

/// The file that executing `name` means: execvp(3) without the shell fallback.
fn find(name: &str, env: &[String]) -> Result<PathBuf, Failure> {
    let quoted = format!("\"{name}\"");
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(error) => Err(Failure::new(Stage::Executable, quoted, error)),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|pair| pair.strip_prefix("PATH="))
        .unwrap_or(DEFAULT_PATH);
    let mut denied = None;
    for dir in path.split(':').filter(|_| !name.is_empty()) {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.raw_os_error() == Some(libc::EACCES) => denied = Some(error),
            _ => {}
        }
    }
    Err(match denied {
        Some(error) => Failure::new(Stage::Executable, quoted, error),
        None => Failure::new(
            Stage::Executable,
            format!("{quoted} is not in PATH"),
            io::Error::from_raw_os_error(libc::ENOENT),
        ),
    })
}

fn check(path: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(path)?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?)
}

fn process_of(spec: &Spec) -> Result<&Process, Failure> {
    spec.process()
        .as_ref()
        .ok_or_else(|| Failure::said(Stage::Request, "no process in the spec"))
}

fn args_of(process: &Process) -> Result<&[String], Failure> {
    let args = process.args().as_deref().filter(|args| !args.is_empty());
    args.ok_or_else(|| Failure::said(Stage::Executable, "no arguments"))
}

fn env_of(process: &Process) -> &[String] {
    process.env().as_deref().unwrap_or_default()
}

/// What engines use when the image names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const CARRIED: &str = "inro-failure:";

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn programs_are_found_as_execvp_would() {
        let env = vec!["PATH=/nowhere:/bin".to_owned()];
        for (name, found) in [
            ("sh", Ok("/bin/sh")),
            ("/bin/sh", Ok("/bin/sh")),
            ("no-such-program", Err(Some(libc::ENOENT))),
            ("/no/such", Err(Some(libc::ENOENT))),
            ("/etc/passwd", Err(Some(libc::EACCES))),
            ("/", Err(Some(libc::EACCES))),
            ("", Err(Some(libc::ENOENT))),
        ] {
            let got = find(name, &env).map_err(|failure| failure.errno);
            assert_eq!(got.as_deref(), found.map(Path::new).as_deref(), "{name:?}");
        }
    }

    #[test]
    fn a_carried_failure_comes_back() {
        let failure = Failure {
            stage: Stage::Executable,
            message: "\"x\" }{".into(),
            errno: Some(2),
        };
        let text = format!("exec process failed with error {} and more", carry(&failure));
        assert_eq!(carried(&text), Some(failure));
    }
}
