//! A Debian kernel under QEMU's software emulation, to which scripts are given one by one while
//! the target outside lives, dies and comes back.

use super::{Directory, find_program, here, tail};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// From QEMU's start to the guest's first word. It takes about 6 s on an idle machine.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// What one script may take.
pub(crate) const SCRIPT_LIMIT: Duration = Duration::from_secs(420);

/// Host loopback as a guest in QEMU's user mode network sees it.
pub(crate) const HOST_ADDRESS: &str = "10.0.2.2";

/// What leaves out the seconds that a kernel spends on hardware which emulation has not got.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 loglevel=4 panic=-1 reboot=t nokaslr \
    mitigations=off random.trust_cpu=on no_timer_check nowatchdog cryptomgr.notests \
    8250.nr_uarts=1 rcupdate.rcu_expedited=1 net.ifnames=0 rdinit=/init";

/// A script of `tests/host/guest` and what it is told.
#[derive(Debug)]
pub(crate) struct Script<'a> {
    pub(crate) name: &'a str,
    pub(crate) address: &'a str,
    pub(crate) port: u16,
    pub(crate) nqn: &'a str,
    /// Further options of `nvme connect`.
    pub(crate) connect: &'a str,
}

/// The running guest.
#[derive(Debug)]
pub(crate) struct Vm {
    qemu: Child,
    port: BufReader<UnixStream>,
    console: PathBuf,
    /// Script that has been started and has not ended.
    running: Option<String>,
    output: String,
    _directory: Directory,
}

impl Vm {
    /// Boots a guest; makes kernel and initramfs first where the cache has none.
    pub(crate) fn boot() -> Self {
        let (kernel, initramfs) = guest_image();
        Self::boot_kernel(&kernel, &initramfs)
    }

    /// The same with the newest kernel of the shared material, which has its drivers built in;
    /// `None`: it is not there, which was said.
    pub(crate) fn boot_newest() -> Option<Self> {
        let shared = std::env::var_os("MDOF_SHARED").map_or_else(
            || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared")),
            PathBuf::from,
        );
        let kernel = shared.join("vm/bzImage-7.2-llbitmap");
        if !kernel.exists() {
            // Past the capture of a passing test's output.
            let _ = writeln!(std::io::stderr(), "left out: {} is not there", kernel.display());
            return None;
        }
        let (_, initramfs) = guest_image();
        Some(Self::boot_kernel(&kernel, &initramfs))
    }

    fn boot_kernel(kernel: &Path, initramfs: &Path) -> Self {
        let directory = Directory::new("vm");
        let control = directory.file("ctl");
        let console = directory.file("console");
        let listener = UnixListener::bind(&control).expect("the guest's control socket");
        let qemu = start_qemu(kernel, initramfs, &control, &console);
        let start = Instant::now();
        let mut vm = Self {
            qemu,
            port: BufReader::new(accept(&listener)),
            console,
            running: Some("boot".to_owned()),
            output: String::new(),
            _directory: directory,
        };
        vm.wait_for_line("@@ready", BOOT_LIMIT);
        vm.running = None;
        vm.output.clear();
        println!("guest booted in {:.1} s", start.elapsed().as_secs_f64());
        vm
    }

    /// Runs a script to its end, which has to be a good one; returns what it said.
    pub(crate) fn run(&mut self, script: &Script<'_>) -> String {
        self.start(script);
        self.finish(SCRIPT_LIMIT)
    }

    /// Starts a script; [`Self::wait_for_line`] and [`Self::finish`] follow it.
    pub(crate) fn start(&mut self, script: &Script<'_>) {
        assert!(self.running.is_none(), "{:?} still runs", self.running);
        let read = |name: &str| {
            let path = here("guest").join(name);
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
        };
        let text = format!(
            "ADDR={} PORT={} NQN={} CONNECT='{}'\n{}\n{}",
            script.address,
            script.port,
            script.nqn,
            script.connect,
            read("lib.sh"),
            read(&format!("{}.sh", script.name)),
        );
        println!("guest runs {} {}", script.name, script.connect);
        let stream = self.port.get_mut();
        write!(stream, "RUN {}\n{text}", text.len()).expect("the guest takes a script");
        self.running = Some(script.name.to_owned());
        self.output.clear();
    }

    /// Waits until the running script prints a line that starts so.
    pub(crate) fn wait_for_line(&mut self, start: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.read_line(deadline, start);
            if line.starts_with(start) {
                return;
            }
            if let Some(code) = exit_code(&line) {
                self.fail(&format!("ended with {code} before it said '{start}'"));
            }
        }
    }

    /// Waits for the end of the running script, which has to be a good one.
    pub(crate) fn finish(&mut self, limit: Duration) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.read_line(deadline, "the script's end");
            match exit_code(&line) {
                Some("0") => break,
                Some(code) => self.fail(&format!("ended with {code}")),
                None => {}
            }
        }
        self.running = None;
        std::mem::take(&mut self.output)
    }

    fn read_line(&mut self, deadline: Instant, what: &str) -> String {
        let mut line = Vec::new();
        loop {
            match self.port.read_until(b'\n', &mut line) {
                // What was read before the timeout stays in `line`.
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock) => {
                    if Instant::now() > deadline {
                        self.fail(&format!("took too long; waited for {what}"));
                    }
                }
                Err(error) => self.fail(&format!("guest lost: {error}")),
                Ok(_) if line.ends_with(b"\n") => break,
                Ok(_) => self.fail("guest died"),
            }
        }
        let line = String::from_utf8_lossy(&line).into_owned();
        print!("  | {line}");
        self.output.push_str(&line);
        line
    }

    fn fail(&self, why: &str) -> ! {
        let script = self.running.as_deref().unwrap_or("no script");
        panic!("guest script {script}: {why}\nconsole:\n{}", tail(&self.console, 30));
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // The guest keeps nothing that would be lost, and QEMU may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn exit_code(line: &str) -> Option<&str> {
    line.trim_end().strip_prefix("@@exit ")?.strip_suffix("@@")
}

fn guest_image() -> (PathBuf, PathBuf) {
    // `target/tmp` of the build; the cache lies beside it and outlives `cargo test`.
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("vm-cache");
    let output = Command::new("bash")
        .arg(here("initramfs.sh"))
        .arg(cache)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .expect("bash");
    assert!(output.status.success(), "tests/host/initramfs.sh failed, see above");
    let text = String::from_utf8(output.stdout).expect("paths in UTF-8");
    let (kernel, initramfs) = text.trim_end().split_once('\n').expect("two paths");
    (kernel.into(), initramfs.into())
}

fn start_qemu(kernel: &Path, initramfs: &Path, control: &Path, console: &Path) -> Child {
    let program = find_program("qemu-system-x86_64").expect("checked before");
    Command::new(program)
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-machine", "q35,hpet=off", "-accel", "tcg,thread=multi,tb-size=512"])
        .args(["-cpu", "max", "-smp", "2", "-m", "1024"])
        .args(["-append", KERNEL_COMMAND_LINE])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-serial", &format!("file:{}", console.display())])
        .args(["-chardev", &format!("socket,path={},id=ctl", control.display())])
        .args(["-device", "virtio-serial-pci"])
        .args(["-device", "virtserialport,chardev=ctl,name=mdof.ctl"])
        .args(["-netdev", "user,id=net"])
        .args(["-device", "virtio-net-pci,netdev=net,romfile="])
        .stdin(Stdio::null())
        .spawn()
        .expect("qemu-system-x86_64 starts")
}

/// QEMU connects at its start; it says on its own stderr why it did not.
fn accept(listener: &UnixListener) -> UnixStream {
    listener.set_nonblocking(true).expect("a listener may be non-blocking");
    let mut stream = None;
    super::wait_until("QEMU connects to its control socket", Duration::from_secs(30), || {
        stream = listener.accept().ok();
        stream.is_some()
    });
    let (stream, _) = stream.expect("waited for it");
    stream.set_nonblocking(false).expect("a stream may block");
    // Short, so that a deadline is seen in time.
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a valid timeout");
    stream
}
