//! Connecting, authenticating, binding and enabling, again and again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::open::{Member, Target};
use super::outcome::{Latency, Outcome, Start};
use super::spec::LoginSpec;
use super::traffic::Readers;
use crate::measure::histogram::Histogram;
use crate::measure::process::{own, usage};
use crate::net::link::ReadSide;

/// Long enough for a server to finish the work that follows its last answer.
const REST: Duration = Duration::from_millis(300);

/// Connections that stay open until the measurement is over, so that closing is not measured.
#[derive(Default)]
struct Held {
    members: Vec<Member>,
    bare: Vec<ReadSide>,
    latency: Histogram,
}

/// Measures logins at one server; at the floor, bare handshakes.
///
/// # Errors
/// When a login fails.
pub async fn login(target: &Target, spec: &LoginSpec) -> Result<Outcome> {
    let warmup = spec.count.div_ceil(10);
    leave(many(target, 0..warmup, spec.concurrency).await?).await;
    sleep(REST).await;

    let start = Start {
        usage: usage(&target.spec.pids)?,
        own: own()?,
    };
    let begin = Instant::now();
    let held = many(target, warmup..warmup + spec.count, spec.concurrency).await?;
    let wall_s = begin.elapsed().as_secs_f64();
    sleep(REST).await;
    let end = Start {
        usage: usage(&target.spec.pids)?,
        own: own()?,
    };
    let mut outcome = start.outcome(&end, "login", spec.count as u64, wall_s);
    outcome.latency = Latency::from(&held.latency);
    leave(held).await;
    Ok(outcome)
}

async fn many(
    target: &Target,
    numbers: std::ops::Range<usize>,
    concurrency: usize,
) -> Result<Held> {
    let next = Arc::new(AtomicUsize::new(numbers.start));
    let held = Arc::new(Mutex::new(Held::default()));
    let mut workers = JoinSet::new();
    for _ in 0..concurrency.max(1) {
        let (target, next, held) = (target.clone(), Arc::clone(&next), Arc::clone(&held));
        let end = numbers.end;
        workers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return anyhow::Ok(());
                }
                let begin = Instant::now();
                let context = || format!("login {number} at '{}'", target.spec.name);
                if target.is_floor() {
                    let bare = target.handshake(number).await.with_context(context)?;
                    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                    held.latency.record(begin.elapsed());
                    held.bare.push(bare);
                } else {
                    let member = Box::pin(target.session(number))
                        .await
                        .with_context(context)?;
                    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
                    held.latency.record(begin.elapsed());
                    held.members.push(member);
                }
            }
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    let mut held = held.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *held))
}

async fn leave(held: Held) {
    let mut readers = Readers::default();
    readers.add_idle(held.members);
    readers.close().await;
    for bare in &held.bare {
        bare.link().close_notify();
    }
}
