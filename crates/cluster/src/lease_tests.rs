#![allow(clippy::unwrap_used)]

use async_trait::async_trait;
use sestina_api::identity::Proved;
use sestina_runtime::clock::{BootInstant, ManualClock};
use sestina_runtime::pressure::Pressure;

use super::*;

/// The answer of an authority to renewals.
#[derive(Clone, Copy)]
enum Answer {
    Renew,
    Lost,
    Unavailable,
    Hang,
}

struct FakeAuthority {
    state: parking_lot::Mutex<(Answer, usize, Option<proto::Node>, usize)>,
}

impl FakeAuthority {
    fn new() -> FakeAuthority {
        FakeAuthority {
            state: parking_lot::Mutex::new((Answer::Renew, 0, None, 0)),
        }
    }

    fn set(&self, answer: Answer) {
        self.state.lock().0 = answer;
    }

    fn renewals(&self) -> usize {
        self.state.lock().1
    }

    fn last_node(&self) -> Option<proto::Node> {
        self.state.lock().2.clone()
    }

    fn released(&self) -> usize {
        self.state.lock().3
    }
}

/// The machine's clock, by tokio's (paused) time.
struct TokioClock(Instant);

impl Clock for TokioClock {
    fn now(&self) -> BootInstant {
        let since = Duration::from_secs(1000) + self.0.elapsed();
        BootInstant::from_nanos(u64::try_from(since.as_nanos()).unwrap())
    }
}

fn node() -> proto::Node {
    proto::Node {
        name: "router-0".into(),
        incarnation: 7,
        ..Default::default()
    }
}

struct Setup {
    state_store: Arc<FakeAuthority>,
    storage: Arc<FakeAuthority>,
    keeper: LeaseKeeper,
    tasks: Tasks,
    samples: Arc<parking_lot::Mutex<Vec<LeaseSample>>>,
}

fn start() -> Setup {
    let (state_store, storage) = (
        Arc::new(FakeAuthority::new()),
        Arc::new(FakeAuthority::new()),
    );
    let tasks = Tasks::new("test");
    let clock = Arc::new(TokioClock(Instant::now()));
    let terms = LeaseTerms::default();
    let samples = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let seen = samples.clone();
    let health = LeaseHealth::new(terms.ttl - terms.margin, Pressure::new(), move |sample| {
        seen.lock().push(sample);
    });
    let keeper = LeaseKeeper::start(
        Holder::new(node()),
        state_store.clone(),
        storage.clone(),
        terms,
        clock,
        Arc::new(health),
        &tasks,
    );
    Setup {
        samples,
        state_store,
        storage,
        keeper,
        tasks,
    }
}

async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

#[test]
fn the_guard_of_the_margin_is_missed() {
    let name = "lease::tests::the_deadline_counts_from_before_the_request";
    let text = sestina_runtime::mutation::test_without("lease-margin", name).unwrap();
    assert!(text.contains("1 failed"), "{text}");
}

/// Also run as the child of the previous test, with the guard off.
#[test]
fn the_deadline_counts_from_before_the_request() {
    sestina_runtime::faults_from_env().unwrap();
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(100));
    let deadline = LeaseDeadline::new(clock.clone(), LeaseTerms::default());
    assert!(!deadline.serving() && deadline.deadline().is_none());
    let started = clock.now();
    clock.advance(Duration::from_millis(900));
    deadline.renewed(Authority::Storage, started);
    assert_eq!(
        deadline.deadline(),
        started.checked_add(Duration::from_secs(3))
    );
    clock.advance(Duration::from_millis(2099));
    assert!(deadline.serving());
    clock.advance(Duration::from_millis(1));
    assert!(!deadline.serving(), "serves within the margin");
    assert!(deadline.fresh(Authority::Storage) && !deadline.fresh(Authority::StateStore));
    // The answer was on its way while the machine was suspended.
    clock.advance(Duration::from_secs(60));
    deadline.renewed(Authority::Storage, started);
    assert!(!deadline.serving());
    deadline.renewed(Authority::StateStore, clock.now());
    assert!(deadline.serving());
    deadline.renewed(Authority::StateStore, started);
    assert!(deadline.serving(), "an older answer took time away");
    deadline.lose("gone");
    assert!(!deadline.serving());
    deadline.renewed(Authority::StateStore, clock.now());
    assert!(!deadline.serving(), "a lost lease came back");
}

#[tokio::test(start_paused = true)]
async fn serves_while_either_is_fresh() {
    let setup = start();
    setup.keeper.wait_serving().await.unwrap();
    setup.state_store.set(Answer::Unavailable);
    pass(60.0).await;
    assert!(setup.keeper.serving());
    assert!(!setup.keeper.deadline().fresh(Authority::StateStore));
    setup.storage.set(Answer::Hang);
    pass(1.5).await;
    assert!(
        setup.keeper.serving(),
        "stopped although three seconds are left"
    );
    pass(2.0).await;
    assert!(!setup.keeper.serving(), "serves without a lease");
    setup.state_store.set(Answer::Renew);
    pass(1.1).await;
    assert!(setup.keeper.serving(), "did not come back");
}

#[tokio::test(start_paused = true)]
async fn a_hung_authority_does_not_delay_the_other() {
    let setup = start();
    setup.state_store.set(Answer::Hang);
    pass(0.5).await;
    let before = setup.storage.renewals();
    for _ in 0..30 {
        pass(1.0).await;
        assert!(setup.keeper.serving());
    }
    assert_eq!(setup.storage.renewals() - before, 30);
    assert!(
        setup.state_store.renewals() >= 28,
        "{}",
        setup.state_store.renewals()
    );
}

#[tokio::test(start_paused = true)]
async fn one_authoritys_mark_is_the_end() {
    for marks in [Authority::StateStore, Authority::Storage] {
        let setup = start();
        setup.keeper.wait_serving().await.unwrap();
        let marker = [&setup.state_store, &setup.storage][marks as usize];
        pass(1.5).await;
        marker.set(Answer::Lost);
        let lost = setup.keeper.lost().await;
        assert!(lost.0.contains(marks.name()), "{lost}");
        assert!(!setup.keeper.serving());
        marker.set(Answer::Renew);
        pass(10.0).await;
        assert!(!setup.keeper.serving());
        assert_eq!(setup.keeper.wait_serving().await, Err(lost));
    }
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_former_incarnation_to_end() {
    let setup = start();
    setup.state_store.set(Answer::Lost);
    setup.storage.set(Answer::Lost);
    pass(20.0).await;
    assert!(!setup.keeper.serving());
    setup.storage.set(Answer::Renew);
    setup.keeper.wait_serving().await.unwrap();
    pass(5.0).await;
    assert!(
        setup.keeper.serving(),
        "the other authority's old lease ended the new one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_node_is_sent_to_both_authorities_at_once() {
    let setup = start();
    setup.keeper.wait_serving().await.unwrap();
    setup.keeper.update_node(|node| node.draining = true);
    pass(0.01).await;
    assert!(setup.state_store.last_node().unwrap().draining);
    assert!(setup.storage.last_node().unwrap().draining);
}

#[tokio::test(start_paused = true)]
async fn gives_the_lease_back_and_ends() {
    let setup = start();
    setup.keeper.wait_serving().await.unwrap();
    setup.state_store.set(Answer::Hang);
    setup.keeper.release().await;
    assert!(!setup.keeper.serving());
    assert_eq!(setup.storage.released(), 1);
    let before = setup.storage.renewals();
    pass(5.0).await;
    assert_eq!(
        setup.storage.renewals(),
        before,
        "renewed after the release"
    );
    setup.tasks.join(Duration::from_secs(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dropping_the_keeper_ends_its_tasks() {
    let Setup { keeper, tasks, .. } = start();
    let deadline = keeper.deadline();
    drop(keeper);
    assert!(!deadline.serving());
    tasks.join(Duration::from_secs(5)).await.unwrap();
}

#[async_trait]
impl LeaseAuthority for FakeAuthority {
    async fn renew(&self, holder: &Holder, _: Duration) -> Result<Renewal, AuthorityUnavailable> {
        let answer = {
            let mut state = self.state.lock();
            state.1 += 1;
            state.2 = Some(holder.node.clone());
            state.0
        };
        match answer {
            Answer::Renew => Ok(Renewal::Renewed),
            Answer::Lost => Ok(Renewal::Lost),
            Answer::Unavailable => Err(AuthorityUnavailable("test".into())),
            Answer::Hang => std::future::pending().await,
        }
    }

    async fn release(&self, _: &Holder) -> Result<(), AuthorityUnavailable> {
        self.state.lock().3 += 1;
        Ok(())
    }

    async fn prove(&self, _: &Holder) -> Result<Proved, AuthorityUnavailable> {
        Ok(Proved::Unknown)
    }

    async fn fresh(&self) -> Result<Vec<(proto::Node, Duration)>, AuthorityUnavailable> {
        Ok(Vec::new())
    }

    async fn mark_ended(&self, _: &proto::Node) -> Result<bool, AuthorityUnavailable> {
        Ok(true)
    }

    async fn unmark(&self, _: &proto::Node) -> Result<(), AuthorityUnavailable> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_renewal_tells_how_long_it_took_and_what_was_left() {
    let setup = start();
    setup.keeper.wait_serving().await.unwrap();
    pass(0.5).await;
    let first = std::mem::take(&mut *setup.samples.lock());
    assert_eq!(first.len(), 2, "{first:?}");
    assert_eq!(first[0].left, None, "the first of all");
    pass(1.0).await;
    let second = std::mem::take(&mut *setup.samples.lock());
    assert_eq!(second.len(), 2, "{second:?}");
    let left = second[0].left.unwrap();
    assert!(
        left > Duration::from_millis(1990) && left <= Duration::from_secs(2),
        "{left:?} left a second after a renewal for three"
    );
    for authority in [&setup.state_store, &setup.storage] {
        authority.set(Answer::Hang);
    }
    pass(2.0).await;
    let third = std::mem::take(&mut *setup.samples.lock());
    let took = Duration::from_secs(1);
    assert!(
        third
            .iter()
            .any(|s| s.took == took && s.left.is_some_and(|left| left < took * 3 / 2)),
        "renewals without an answer are not told: {third:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_near_its_end_is_renewed_more_often() {
    let setup = start();
    setup.keeper.wait_serving().await.unwrap();
    for authority in [&setup.state_store, &setup.storage] {
        authority.set(Answer::Unavailable);
    }
    pass(3.05).await;
    assert!(!setup.keeper.serving());
    setup.state_store.set(Answer::Renew);
    pass(0.2).await;
    assert!(setup.keeper.serving(), "serving waits for the next second");
    // But no longer: an authority may be unavailable for hours.
    setup.state_store.set(Answer::Unavailable);
    pass(10.0).await;
    let before = setup.state_store.renewals();
    pass(10.0).await;
    let more = setup.state_store.renewals() - before;
    assert!((9..=11).contains(&more), "{more} renewals in ten seconds");
}
