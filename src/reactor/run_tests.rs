use super::super::mesh::mesh;
use super::super::ring::KIND_FREE;
use super::super::timer::TimerTag;
use super::*;

const LONG: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// Answered by `Did(0)`.
    Ping,
    /// A no-op through the ring: `Did(1)`.
    Nop,
    /// A timer after 5 ms: `Did(2)`.
    Timer,
    Forward(usize, u64),
    Stop,
    Did(u64),
}

struct Echo;

impl Program for Echo {
    type Message = Message;

    fn on_message(&mut self, core: &mut Core<Message>, _from: usize, message: Message) {
        let control = core.port.control();
        let op = 7;
        match message {
            Message::Ping => core.port.post(control, Message::Did(0)),
            Message::Nop => {
                let data = UserData { kind: KIND_FREE, extra: 0, object: 0, op };
                // SAFETY: a no-op points to nothing.
                unsafe { core.io.ring.push(opcode::Nop::new().build(), data) };
            }
            Message::Timer => {
                let tag = TimerTag { kind: KIND_FREE, object: 0, op };
                core.io.timers.arm(core.io.now_ms() + 5, tag);
            }
            Message::Forward(to, n) if to == core.index() => {
                core.port.post(control, Message::Did(n));
            }
            Message::Forward(to, n) => core.port.post(to, Message::Forward(to, n)),
            Message::Stop => core.stop(),
            Message::Did(_) => panic!("not for cores"),
        }
    }

    fn on_completion(&mut self, core: &mut Core<Message>, data: UserData, res: i32, _: u32) {
        assert_eq!((data.op, res), (7, 0));
        let control = core.port.control();
        core.port.post(control, Message::Did(1));
    }

    fn on_timer(&mut self, core: &mut Core<Message>, tag: TimerTag) {
        assert_eq!(tag.op, 7);
        let control = core.port.control();
        core.port.post(control, Message::Did(2));
    }

    fn on_turn(&mut self, _: &mut Core<Message>) -> bool {
        false
    }
}

struct Running {
    control: Port<Message>,
    counters: Vec<Arc<CoreCounters>>,
    threads: Vec<JoinHandle<()>>,
}

fn start(cores: usize, idle: IdlePolicy) -> Running {
    let mut ports = mesh(cores, 8).unwrap();
    let control = ports.pop().unwrap();
    let mut counters = Vec::new();
    let mut threads = Vec::new();
    for port in ports {
        let config = ReactorConfig { cpu: None, idle, buffer_counts: [4, 1, 1, 0] };
        let own = Arc::new(CoreCounters::default());
        counters.push(own.clone());
        threads.push(spawn(config, port, own, |_core| Echo).unwrap());
    }
    Running { control, counters, threads }
}

impl Running {
    fn ask(&mut self, core: usize, message: Message) -> u64 {
        self.control.post(core, message);
        match self.control.receive_blocking(LONG) {
            Some((_, Message::Did(what))) => what,
            other => panic!("no answer, a wake-up was lost: {other:?}"),
        }
    }

    fn stop(mut self) {
        for core in 0..self.threads.len() {
            self.control.post(core, Message::Stop);
        }
        for thread in self.threads {
            thread.join().unwrap();
        }
    }

    fn wait_asleep(&self, core: usize) -> u64 {
        let deadline = std::time::Instant::now() + LONG;
        let mut last = u64::MAX;
        loop {
            let turns = self.counters[core].turns.get();
            if turns == last && self.counters[core].sleeps.get() > 0 {
                return turns;
            }
            assert!(std::time::Instant::now() < deadline, "the idle core keeps turning");
            last = turns;
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn an_idle_core_sleeps_and_wakes_for_each_source() {
    let mut running = start(1, IdlePolicy { spin_us: 50, poll_always: false });
    for (message, answer) in [(Message::Ping, 0), (Message::Nop, 1), (Message::Timer, 2)] {
        let turns = running.wait_asleep(0);
        std::thread::sleep(Duration::from_millis(50));
        assert!(running.counters[0].turns.get() <= turns + 1, "an idle core turned");
        assert_eq!(running.ask(0, message), answer);
    }
    // Counters of a turn are written after its answers.
    running.wait_asleep(0);
    assert!(running.counters[0].sleeps.get() >= 3);
    assert_eq!(running.counters[0].messages.get(), 3);
    assert_eq!(running.counters[0].completions.get(), 1);
    assert_eq!(running.counters[0].timers.get(), 1);
    running.stop();
}

#[test]
fn a_polling_core_never_sleeps() {
    let mut running = start(1, IdlePolicy { spin_us: 0, poll_always: true });
    assert_eq!(running.ask(0, Message::Ping), 0);
    let turns = running.counters[0].turns.get();
    std::thread::sleep(Duration::from_millis(50));
    assert!(running.counters[0].turns.get() > turns + 10);
    assert_eq!(running.counters[0].sleeps.get(), 0);
    running.stop();
}

#[test]
fn messages_between_sleepy_cores_all_arrive_in_order() {
    // Every turn without work sleeps, and the rings are small: all paths of the protocol.
    let mut running = start(2, IdlePolicy { spin_us: 0, poll_always: false });
    for n in 0..2000 {
        let (near, far) = if n % 2 == 0 { (0, 1) } else { (1, 0) };
        assert_eq!(running.ask(near, Message::Forward(far, n)), n);
    }
    for n in 0..2000 {
        running.control.post(0, Message::Forward(1, n));
    }
    for n in 0..2000 {
        let got = running.control.receive_blocking(LONG);
        assert_eq!(got, Some((1, Message::Did(n))), "lost or out of order");
    }
    running.stop();
}

#[test]
fn a_cpu_that_does_not_exist_is_a_clear_error() {
    let mut ports = mesh::<Message>(1, 8).unwrap();
    let config =
        ReactorConfig { cpu: Some(1000), idle: IdlePolicy::default(), buffer_counts: [1, 0, 0, 0] };
    let error = spawn(config, ports.remove(0), Arc::default(), |_| Echo).unwrap_err();
    assert!(error.to_string().contains("CPU 1000"), "{error}");
}
