//! When a connection is cut, and when it is not.

use super::*;

const IDLE: Duration = Duration::from_secs(60);

fn state() -> (Rc<Clock>, Rc<ConnState>, Instant) {
    let start = Instant::now();
    let clock = Clock::new(start);
    let state = ConnState::new(&clock, Timeouts { idle: IDLE, header: Duration::from_secs(10) });
    (clock, state, start)
}

fn run(clock: &Clock, state: &ConnState, start: Instant, seconds: std::ops::Range<u64>, each: usize) {
    for second in seconds {
        clock.tick(start + Duration::from_secs(second));
        if each > 0 {
            state.received(each);
        }
        state.wants_bytes();
        state.tick(clock.now());
    }
}

#[test]
fn an_upload_below_the_rate_is_cut_after_ten_seconds_and_one_above_is_not() {
    let (clock, slow, start) = state();
    slow.request_begins();
    slow.set_reading(Reading::Sized);
    run(&clock, &slow, start, 0..10, 100);
    assert!(!slow.body_is_late());
    run(&clock, &slow, start, 10..13, 100);
    assert!(slow.body_is_late(), "the request may still be answered");
    run(&clock, &slow, start, 13..15, 100);
    assert_eq!(slow.verdict(), Some(Verdict::Drip));

    let (clock, steady, start) = state();
    steady.request_begins();
    steady.set_reading(Reading::Sized);
    run(&clock, &steady, start, 0..300, 300);
    assert!(steady.verdict().is_none() && !steady.body_is_late());
}

#[test]
fn a_slow_instance_is_never_held_against_the_client() {
    let (clock, state, start) = state();
    state.request_begins();
    clock.tick(start + IDLE * 10);
    state.tick(clock.now());
    assert_eq!(state.verdict(), None);
    state.answer_begins();
    state.tick(clock.now() + IDLE / 2);
    assert_eq!(state.verdict(), None);
    state.tick(clock.now() + IDLE);
    assert_eq!(state.verdict(), Some(Verdict::Idle), "a quiet answer has the idle limit");
}

#[test]
fn a_drain_ends_idle_connections_after_a_last_call_and_waits_for_busy_ones() {
    let (clock, idle, start) = state();
    let busy = ConnState::new(&clock, Timeouts { idle: IDLE, header: Duration::from_secs(10) });
    busy.request_begins();
    clock.drain();
    for state in [&idle, &busy] {
        state.tick(start + LAST_CALL / 2);
        assert!(!state.is_leaving());
        state.tick(start + LAST_CALL);
    }
    assert!(idle.is_leaving() && !busy.is_leaving());
}

#[test]
fn a_head_is_late_by_its_own_clock_however_it_drips() {
    let (clock, state, start) = state();
    state.set_reading(Reading::Head);
    for second in 0..10 {
        clock.tick(start + Duration::from_secs(second));
        state.received(1);
        state.tick(clock.now());
        assert!(!state.head_is_late());
    }
    state.tick(start + Duration::from_secs(10));
    assert!(state.head_is_late());
}

#[test]
fn a_fin_under_a_request_is_believed_a_second_later() {
    let (clock, state, start) = state();
    state.request_begins();
    state.end_of_input();
    assert!(state.input_ended() && !state.has_left());
    clock.tick(start + Duration::from_secs(1));
    assert!(state.has_left());
}

#[test]
fn who_begins_to_take_no_more_of_an_answer_is_listened_to_though_memory_is_short() {
    struct Count(std::sync::atomic::AtomicUsize);
    impl std::task::Wake for Count {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
    let (clock, state, _) = state();
    (0..crate::proxy::memory::FEW).for_each(|_| state.request_begins());
    clock.set_pressure(Pressure::Full);
    let count = std::sync::Arc::new(Count(0.into()));
    state.park(&Context::from_waker(&Waker::from(std::sync::Arc::clone(&count))));
    assert!(state.is_choked(), "nothing is read from it");
    state.answer_held(true);
    assert_eq!(count.0.load(std::sync::atomic::Ordering::Relaxed), 1, "what it says may make room");
    assert!(!state.is_choked());
}
