//! Owned tasks: every task belongs to a group and ends with it; a task that does not end is named.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Tasks of a group that still ran at the deadline; they have been aborted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tasks of {group} did not end in time and were aborted: {}", .tasks.join(", "))]
pub struct Unfinished {
    /// Name of the group that was joined.
    pub group: String,
    /// `group/task` of each, in order of their start within a group.
    pub tasks: Vec<String>,
}

/// A group of tasks with one name and one shutdown token. A clone is the same group.
#[derive(Clone, Debug)]
pub struct Tasks {
    group: Arc<Group>,
}

#[derive(Debug)]
struct Group {
    name: String,
    /// The runtime on which all tasks of the group run. None: each task runs on the runtime that starts
    /// it.
    home: Option<Handle>,
    token: CancellationToken,
    table: Mutex<Table>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    closed: bool,
    running: BTreeMap<u64, (Cow<'static, str>, Option<AbortHandle>)>,
    children: Vec<Weak<Group>>,
}

impl Tasks {
    /// A group of its own.
    pub fn new(name: impl Into<String>) -> Tasks {
        Tasks::with_token(name, CancellationToken::new())
    }

    /// A group of its own whose tasks run on `home`.
    pub fn on(name: impl Into<String>, home: Handle) -> Tasks {
        Tasks::made(name.into(), Some(home), CancellationToken::new())
    }

    /// A group that ends when `token` is cancelled. Its tasks run on the runtime on which the group
    /// is made, also those that are started on another one.
    pub fn with_token(name: impl Into<String>, token: CancellationToken) -> Tasks {
        Tasks::made(name.into(), Handle::try_current().ok(), token)
    }

    fn made(name: String, home: Option<Handle>, token: CancellationToken) -> Tasks {
        Tasks {
            group: Arc::new(Group {
                name,
                home,
                token,
                table: Mutex::default(),
                ended: Notify::new(),
            }),
        }
    }

    /// A group within this one: it ends and is joined with this group, and can also end alone.
    pub fn child(&self, name: impl AsRef<str>) -> Tasks {
        let child = Tasks::made(
            format!("{}/{}", self.group.name, name.as_ref()),
            self.group.home.clone(),
            self.group.token.child_token(),
        );
        let mut table = self.group.table.lock();
        table.children.retain(|held| held.strong_count() > 0);
        table.children.push(Arc::downgrade(&child.group));
        child
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// The token that the group's tasks must watch.
    pub fn token(&self) -> CancellationToken {
        self.group.token.clone()
    }

    /// Whether the group has been told to end.
    pub fn is_ending(&self) -> bool {
        self.group.token.is_cancelled()
    }

    /// Starts a task. Once the group has been joined, the future is dropped instead; between
    /// shutdown and join a task still starts, and finds the token cancelled.
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let mut table = self.group.table.lock();
        if table.closed {
            drop(table);
            tracing::debug!(group = %self.group.name, task = %name, "not started: the group has ended");
            return;
        }
        let id = table.next;
        table.next += 1;
        table.running.insert(id, (name, None));
        let entry = Entry {
            group: self.group.clone(),
            id,
        };
        let task = async move {
            let _entry = entry;
            future.await;
        };
        let handle = match &self.group.home {
            Some(home) => home.spawn(task),
            None => tokio::spawn(task),
        };
        if let Some((_, abort)) = table.running.get_mut(&id) {
            *abort = Some(handle.abort_handle());
        }
    }

    /// How many tasks run, including those of child groups.
    pub fn running(&self) -> usize {
        let mut names = Vec::new();
        self.group.collect(&mut names);
        names.len()
    }

    /// Tells the group to end, without waiting.
    pub fn shutdown(&self) {
        self.group.token.cancel();
    }

    /// Tells the group to end and waits for its tasks and those of its children. Those that still
    /// run after `deadline` are aborted and named in the error.
    pub async fn join(&self, deadline: Duration) -> Result<(), Unfinished> {
        self.shutdown();
        let until = Instant::now() + deadline;
        for group in self.group.with_children() {
            loop {
                let ended = group.ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                {
                    let mut table = group.table.lock();
                    if table.running.is_empty() {
                        table.closed = true;
                        break;
                    }
                }
                if tokio::time::timeout_at(until, ended).await.is_err() {
                    break;
                }
            }
        }
        let mut names = Vec::new();
        self.group.collect(&mut names);
        for group in self.group.with_children() {
            let mut table = group.table.lock();
            table.closed = true;
            let aborts: Vec<AbortHandle> = table
                .running
                .values()
                .filter_map(|(_, abort)| abort.clone())
                .collect();
            drop(table);
            aborts.iter().for_each(AbortHandle::abort);
        }
        if names.is_empty() {
            return Ok(());
        }
        Err(Unfinished {
            group: self.group.name.clone(),
            tasks: names,
        })
    }
}

impl Group {
    fn with_children(self: &Arc<Group>) -> Vec<Arc<Group>> {
        let children: Vec<Arc<Group>> = self
            .table
            .lock()
            .children
            .iter()
            .filter_map(Weak::upgrade)
            .collect();
        let mut all = vec![self.clone()];
        all.extend(children.iter().flat_map(Group::with_children));
        all
    }

    fn collect(self: &Arc<Group>, names: &mut Vec<String>) {
        for group in self.with_children() {
            let table = group.table.lock();
            names.extend(
                table
                    .running
                    .values()
                    .map(|(name, _)| format!("{}/{name}", group.name)),
            );
        }
    }
}

/// Removes the task from the table when it is dropped: the task has finished, panicked or was aborted.
struct Entry {
    group: Arc<Group>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let removed = self.group.table.lock().running.remove(&self.id);
        if std::thread::panicking() {
            let name = removed.as_ref().map_or("", |(name, _)| name.as_ref());
            tracing::error!(group = %self.group.name, task = name, "a task panicked");
        }
        self.group.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::future::pending;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn joins_those_that_watch_the_token() {
        let tasks = Tasks::new("edge");
        let child = tasks.child("lanes");
        for group in [&tasks, &child] {
            let token = group.token();
            group.spawn("reader", async move { token.cancelled().await });
        }
        assert_eq!(tasks.running(), 2);
        tasks.join(Duration::from_secs(1)).await.unwrap();
        assert_eq!(tasks.running(), 0);
        assert!(child.is_ending());
    }

    #[tokio::test(start_paused = true)]
    async fn names_and_aborts_those_that_hang() {
        let tasks = Tasks::new("router");
        let token = tasks.token();
        tasks.spawn("good", async move { token.cancelled().await });
        let held = Arc::new(());
        let inside = held.clone();
        let child = tasks.child("lanes");
        child.spawn("stuck", async move {
            pending::<()>().await;
            drop(inside);
        });
        let error = tasks.join(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(error.tasks, ["router/lanes/stuck"]);
        assert_eq!(
            error.to_string(),
            "tasks of router did not end in time and were aborted: router/lanes/stuck"
        );
        while tasks.running() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&held), 1, "the future was dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_starts_after_the_join() {
        let tasks = Tasks::new("edge");
        tasks.join(Duration::from_secs(1)).await.unwrap();
        tasks.spawn("late", pending());
        assert_eq!(tasks.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_ends_alone_and_finished_tasks_leave_the_table() {
        let tasks = Tasks::new("edge");
        let child = tasks.child("listener");
        child.spawn("short", async {});
        child.join(Duration::from_secs(1)).await.unwrap();
        assert!(!tasks.is_ending());
        assert!(tasks.group.table.lock().running.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_does_not_hold_up_the_join() {
        let tasks = Tasks::new("edge");
        tasks.spawn("bad", async { panic!("on purpose") });
        tasks.join(Duration::from_secs(1)).await.unwrap();
    }

    #[test]
    fn a_task_runs_on_the_runtime_of_its_group_wherever_it_is_started() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
        };
        let (home, other) = (runtime(), runtime());
        let tasks = home.block_on(async { Tasks::new("edge") });
        let (tell, told) = tokio::sync::oneshot::channel();
        other.block_on(async {
            tasks.spawn("lane", async move {
                tell.send(tokio::runtime::Handle::current().id()).ok();
            });
        });
        assert_eq!(home.block_on(told).unwrap(), home.handle().id());
    }
}
