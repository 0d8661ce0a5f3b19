//! Servers in processes of their own: how they are started on a core, what they use, and that they end with the bench.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use super::role::{self, Layout, Role};

/// A server process, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

/// A command that runs `program` on these cores, where `taskset` is there to say so.
pub(crate) fn on_cores(cores: Option<&str>, program: &str) -> Command {
    match cores {
        Some(cores) if is_installed("taskset") => {
            let mut command = Command::new("taskset");
            command.args(["-c", cores, program]);
            command
        }
        _ => Command::new(program),
    }
}

/// Whether there is a program of this name.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// This program's own path.
pub(crate) fn this_program() -> String {
    let path = std::env::current_exe().expect("the system knows it");
    path.into_os_string().into_string().expect("a path of plain text")
}

impl Server {
    /// This program in `role`.
    pub(crate) fn play(role: Role, layout: &Layout<'_>, cores: Option<&str>) -> Self {
        Self::play_by(&this_program(), role, layout, cores)
    }

    /// A build of this program in `role`.
    pub(crate) fn play_by(program: &str, role: Role, layout: &Layout<'_>, cores: Option<&str>) -> Self {
        let mut command = on_cores(cores, program);
        command.args(role::arguments(role, layout));
        Self::start(command)
    }

    /// A command that becomes one of this program's roles.
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a program that starts");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("its first line");
        let address = line.trim().strip_prefix("ready ").and_then(|address| address.parse().ok());
        let expected =
            || panic!("no server of this bench, since it said {line:?} and not where it listens: {command:?}");
        Self { address: address.unwrap_or_else(expected), child }
    }

    /// A command that listens on `address` as soon as it can.
    pub(crate) fn foreign(mut command: Command, address: SocketAddr) -> Option<Self> {
        let quiet = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = Self { child: quiet.spawn().ok()?, address };
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(50));
            if server.child.try_wait().ok()?.is_some() {
                return None;
            }
            if std::net::TcpStream::connect(address).is_ok() {
                return Some(server);
            }
        }
        None
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to end, and waits until it has.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }

    /// The processor time that it and its descendants have used.
    pub(crate) fn cpu(&self) -> Duration {
        self.family().into_iter().map(cpu).sum()
    }

    /// The memory that it and its descendants hold, in bytes.
    pub(crate) fn memory(&self) -> u64 {
        self.family().into_iter().map(memory).sum()
    }

    fn family(&self) -> Vec<u32> {
        let mut family = vec![self.child.id()];
        let mut at = 0;
        while let Some(parent) = family.get(at) {
            let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
            family.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            at += 1;
        }
        family
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // Politely at first: a parent that is killed leaves its descendants behind.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The processor time of a process, and of threads that it has had.
#[cfg(target_os = "linux")]
fn cpu(process: u32) -> Duration {
    use nix::time::{clock_getcpuclockid, clock_gettime};
    let process = nix::unistd::Pid::from_raw(process.try_into().expect("the kernel's numbers of processes are small"));
    clock_getcpuclockid(process).and_then(clock_gettime).map_or(Duration::ZERO, Duration::from)
}

/// Other systems do not let another process read it.
#[cfg(not(target_os = "linux"))]
fn cpu(_: u32) -> Duration {
    Duration::ZERO
}

/// The resident memory of a process, in bytes.
pub(crate) fn memory(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// How many cores this process may use: asked before its thread is put on one of them, which is then all that it is told of.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, Into::into))
}

/// Keeps every core from going to sleep for as long as it lives: a process on each that never rests, and makes way for any other.
pub(crate) struct Awake(Vec<Child>);

impl Awake {
    /// `None` where the system does not have what it takes.
    pub(crate) fn begin() -> Option<Self> {
        // It ends by itself once the bench has, which may not have the time to see to it.
        let spin = "while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done";
        let spinner = |core: usize| {
            let mut command = on_cores(Some(&core.to_string()), "chrt");
            command.args(["--idle", "0", "sh", "-c", spin]).stdin(Stdio::null()).spawn()
        };
        let installed = is_installed("taskset") && is_installed("chrt");
        installed.then(|| Self((0..cores()).filter_map(|core| spinner(core).ok()).collect()))
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Puts the calling thread on the last core, away from the servers on the first.
pub(crate) fn load_on_the_last_core() {
    cores();
    if let Some(core) = core_affinity::get_core_ids().and_then(|cores| cores.last().copied()) {
        core_affinity::set_for_current(core);
    }
}

/// Puts the calling thread on the first core, away from the load on the last.
pub(crate) fn serve_on_the_first_core() {
    if let Some(core) = core_affinity::get_core_ids().and_then(|cores| cores.first().copied()) {
        core_affinity::set_for_current(core);
    }
}

/// Puts the calling thread on this core, whichever it is on.
pub(crate) fn stay_on(core: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: core });
}
