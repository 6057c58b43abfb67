#![allow(clippy::unwrap_used, clippy::print_stdout)]
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Instant;

use super::*;

/// Points are global: each test uses a name of its own.
fn action(text: &str) -> Action {
    text.parse().unwrap()
}

#[test]
fn actions_are_read_and_written_alike() {
    for text in [
        "kill",
        "suspend",
        "error",
        "pause:250",
        "3*kill",
        "1*pause:5",
    ] {
        assert_eq!(action(text).to_string(), text);
    }
    for text in [
        "", "panic", "0*kill", "x*kill", "pause", "pause:", "pause:-1", "*kill",
    ] {
        assert!(text.parse::<Action>().is_err(), "{text:?}");
    }
}

#[test]
fn an_unarmed_point_does_nothing() {
    assert!(!crate::failpoint!("edge.lane_opened"));
    assert!(!hit("no.such.point"));
}

#[test]
fn without_a_count_every_hit_fails_until_disarmed() {
    arm("storage.read", action("error")).unwrap();
    assert!(crate::failpoint!("storage.read"));
    assert!(hit("storage.read"));
    assert!(armed().contains(&("storage.read", action("error"), 2)));
    disarm("storage.read").unwrap();
    assert!(!crate::failpoint!("storage.read"));
}

#[test]
fn with_a_count_one_hit_fails() {
    arm("storage.write", action("3*error")).unwrap();
    let hits: Vec<bool> = (0..5).map(|_| crate::failpoint!("storage.write")).collect();
    assert_eq!(hits, [false, false, true, false, false]);
    assert!(armed().iter().all(|(name, ..)| *name != "storage.write"));
}

#[test]
fn a_pause_holds_the_thread() {
    arm("edge.sent", action("1*pause:30")).unwrap();
    let before = Instant::now();
    assert!(!crate::failpoint!("edge.sent"));
    assert!(before.elapsed() >= Duration::from_millis(30));
}

#[tokio::test(start_paused = true)]
async fn an_async_pause_holds_the_task_only() {
    arm("edge.acked", action("1*pause:3600000")).unwrap();
    let before = Instant::now();
    assert!(!hit_async("edge.acked").await);
    assert!(
        before.elapsed() < Duration::from_secs(60),
        "the paused clock ran ahead"
    );
    assert!(!is_armed(index_of("edge.acked").unwrap()));
}

#[test]
fn a_wrong_list_arms_nothing_and_says_why() {
    let error = |list| arm_all(list).unwrap_err().to_string();
    assert!(error("router.restored=kill;router.acepted=kill").contains("\"router.acepted\""));
    assert!(error("router.restored=explode").contains("use kill, suspend, error"));
    assert!(error("router.restored").contains("name=action"));
    assert!(!is_armed(index_of("router.restored").unwrap()));
    arm_all("").unwrap();
}

#[test]
fn names_are_unique_and_documented() {
    for (i, (name, text)) in NAMES.iter().enumerate() {
        assert_eq!(index_of(name), Some(i), "{name} stands twice");
        assert!(!text.is_empty(), "{name}");
    }
}

/// Runs only as the child of the next test, which arms the point by the environment.
#[test]
fn child_that_is_killed() {
    if std::env::var(ENV).is_err() {
        return;
    }
    crate::faults_from_env().unwrap();
    assert!(!crate::failpoint!("router.accepted"));
    println!("first hit survived");
    crate::failpoint!("router.accepted");
    println!("second hit survived");
}

#[test]
fn the_environment_arms_a_kill_at_the_second_hit() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "failpoint::tests::child_that_is_killed",
            "--nocapture",
        ])
        .env(ENV, "router.accepted=2*kill")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.signal(), Some(9), "{text}");
    assert!(text.contains("first hit survived"), "{text}");
    assert!(!text.contains("second hit survived"), "{text}");
}
