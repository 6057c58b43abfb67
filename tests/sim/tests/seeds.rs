//! Runs of many seeds and of scripts, and the proof that they fail without the guards of the protocol.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fmt::Debug;
use std::process::Command;

use sestina_sim::hoard::a_client_never_reads;
use sestina_sim::scenarios::{flush_and_kill, flush_at_rest};
use sestina_sim::scripts::{
    a_database_loses_commits, a_room_changes_while_the_store_is_away, an_older_write_comes_last,
    an_opening_of_a_lane_arrives_late, an_owner_dies_as_it_ends_a_session,
};
use sestina_sim::seeds::{Plan, chosen, failing, network, replay};

#[test]
fn nothing_is_lost_doubled_or_mixed_up() {
    sestina_runtime::faults_from_env().unwrap();
    if let Some(seed) = chosen() {
        let wrong = replay(seed, network());
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
        return;
    }
    let failed: Vec<u64> = failing(&Plan::default()).iter().map(|f| f.0).collect();
    assert!(
        failed.is_empty(),
        "these seeds fail; replay one with SESTINA_SIM_SEED: {failed:?}"
    );
}

/// Runs a scenario with several seeds: it has to leave everything as it was. Returns how much that was.
fn unchanged<T>(scenario: fn(u64) -> (T, T)) -> usize
where
    T: IntoIterator + PartialEq + Debug,
{
    let mut count = 0;
    for seed in 0..8 {
        let (before, after) = scenario(seed);
        assert_eq!(before, after, "seed {seed}");
        count += before.into_iter().count();
    }
    count
}

#[test]
fn what_the_state_store_lost_is_written_again() {
    let objects = unchanged(flush_at_rest);
    assert!(objects > 0, "there was nothing to lose");
}

/// More than one fault: a room goes on although only its occupants know it.
#[test]
fn a_room_that_only_its_occupants_know_goes_on() {
    let occupants = unchanged(flush_and_kill);
    assert!(occupants > 0, "no room had an occupant");
}

/// Runs a script with several seeds: nothing may be wrong.
fn nothing_is_wrong(seeds: u64, script: fn(u64) -> Result<Vec<String>, String>) {
    for seed in 0..seeds {
        assert_eq!(script(seed), Ok(Vec::new()), "seed {seed}");
    }
}

/// A write that its owner has given up arrives after the one that has replaced it.
#[test]
fn an_older_write_that_comes_last_changes_nothing() {
    nothing_is_wrong(8, an_older_write_comes_last);
}

/// A standby of the database that lacks the last changes of the slot table takes over.
#[test]
fn a_database_that_lost_commits_costs_no_slot() {
    nothing_is_wrong(8, a_database_loses_commits);
}

/// A router that hears last of an opening which its edge has given up has a lane to that edge in the end.
#[test]
fn an_opening_of_a_lane_that_arrives_late_silences_no_session() {
    nothing_is_wrong(8, |seed| Ok(an_opening_of_a_lane_arrives_late(seed)));
}

/// A client that resumes its session is in the rooms in which it takes itself to be.
#[test]
fn a_session_that_its_dead_owner_has_ended_does_not_go_on() {
    // Also run as the child of the next test, with the guard off.
    sestina_runtime::faults_from_env().unwrap();
    nothing_is_wrong(24, an_owner_dies_as_it_ends_a_session);
}

#[test]
fn the_guard_of_written_ends_is_missed() {
    let name = "a_session_that_its_dead_owner_has_ended_does_not_go_on";
    let text = sestina_runtime::mutation::test_without("written-ends", name).unwrap();
    assert!(text.contains("1 failed"), "{text}");
}

/// More than one fault: the state store is unavailable, and then the room's owner dies. All occupants stay in
/// the room, and receive its later messages.
#[test]
fn occupants_of_an_outage_stay_when_the_owner_of_their_room_dies() {
    // Also run as the child of the next test, with the guard off.
    sestina_runtime::faults_from_env().unwrap();
    nothing_is_wrong(24, a_room_changes_while_the_store_is_away);
}

#[test]
fn the_guard_of_room_members_is_missed() {
    let name = "occupants_of_an_outage_stay_when_the_owner_of_their_room_dies";
    let text = sestina_runtime::mutation::test_without("room-members", name).unwrap();
    assert!(text.contains("1 failed"), "{text}");
}

/// A client is sent much and reads nothing, so that its queues reach their bounds again and again.
#[test]
fn a_client_that_never_reads_harms_nobody() {
    let mut overflows = 0;
    for seed in 0..12 {
        let (wrong, ended) = a_client_never_reads(seed);
        assert_eq!(wrong, Vec::<String>::new(), "seed {seed}");
        overflows += ended;
    }
    assert!(overflows > 0, "no bound was met");
}

#[test]
fn a_seed_fails_without_each_guard() {
    let output = Command::new(env!("CARGO_BIN_EXE_sestina-sim"))
        .args(["--guards", "--seeds", "200"])
        .env_remove("SESTINA_SIM_SEED")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(output.status.success(), "{text}");
}
