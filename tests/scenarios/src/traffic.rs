//! Clients that send numbered messages to each other while a test does other work, and the checks
//! that they received all messages, once, in order.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sestina_xmpp::ns;
use sestina_xmpp::xml::Element;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::{Client, Entrance, Heard, Login, written};

/// The interval between two messages of one client.
const PERIOD: Duration = Duration::from_millis(100);
/// How long it may take, after the last message was sent, until all have been received.
const REST: Duration = Duration::from_secs(30);

/// One message that a client received.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its sender.
    pub from: String,
    /// Its number.
    pub number: u64,
    /// XEP-0359: its id in the receiver's archive.
    pub stanza_id: Option<String>,
    /// The time of its arrival.
    pub at: Instant,
}

/// The result of a client.
pub struct Report {
    /// The client, still connected.
    pub client: Client,
    /// How many messages it sent.
    pub sent: u64,
    /// The messages that it received, in order.
    pub heard: Vec<Said>,
    /// The presences that it received.
    pub presences: Vec<Element>,
    /// How long each of its resumptions took.
    pub resumed: Vec<Duration>,
}

/// A client and its receiver.
pub struct Talker {
    /// The client, managed.
    pub client: Client,
    /// The login for its resumption.
    pub login: Login,
    /// The entrance for a resumption; none: its connection must not break.
    pub other_way: Option<Entrance>,
    /// The address of its receiver.
    pub to: String,
    /// Type of its messages.
    pub kind: &'static str,
}

/// Clients that get each other's messages.
pub struct Group {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<Result<Report>>>,
}

impl Group {
    /// Starts. `all`: each client gets all messages (a room), not only those of others.
    pub fn start(talkers: Vec<Talker>, all: bool) -> Group {
        let stop = watch::Sender::new(false);
        let sent: watch::Sender<HashMap<usize, u64>> = watch::Sender::new(HashMap::new());
        let count = talkers.len();
        let tasks = talkers
            .into_iter()
            .enumerate()
            .map(|(index, talker)| {
                let talk = Talk {
                    index,
                    count,
                    all,
                    sent: sent.clone(),
                    stop: stop.subscribe(),
                };
                tokio::spawn(talk.run(talker))
            })
            .collect();
        Group { stop, tasks }
    }

    /// Fails if a client has failed already.
    pub async fn alive(&mut self) -> Result<()> {
        for task in &mut self.tasks {
            if task.is_finished() {
                task.await??;
                bail!("a client has stopped talking");
            }
        }
        Ok(())
    }

    /// Stops sending; when all clients have received all messages, returns their results, in order.
    pub async fn finish(self) -> Result<Vec<Report>> {
        self.stop.send_replace(true);
        let mut reports = Vec::new();
        for task in self.tasks {
            reports.push(task.await??);
        }
        Ok(reports)
    }
}

struct Talk {
    index: usize,
    count: usize,
    all: bool,
    sent: watch::Sender<HashMap<usize, u64>>,
    stop: watch::Receiver<bool>,
}

impl Talk {
    async fn run(self, talker: Talker) -> Result<Report> {
        let Talker {
            mut client,
            login,
            other_way,
            to,
            kind,
        } = talker;
        client.answers(false);
        let mut report = Report {
            client,
            sent: 0,
            heard: Vec::new(),
            presences: Vec::new(),
            resumed: Vec::new(),
        };
        let mut next = tokio::time::Instant::now();
        let mut deadline = None;
        loop {
            if deadline.is_none() && *self.stop.borrow() {
                deadline = Some(tokio::time::Instant::now() + REST);
                let (index, sent) = (self.index, report.sent);
                self.sent.send_modify(|all| {
                    all.insert(index, sent);
                });
                let sm = ns::SM;
                report.client.write(&format!("<r xmlns='{sm}'/>")).await?;
            }
            if deadline.is_some() && self.is_over(&report) {
                report.client.answers(true);
                report.client.hears_nothing().await?;
                return Ok(report);
            }
            // Wakes up now and then, because the number of messages of the others may be known by
            // now.
            next += PERIOD;
            let heard = tokio::time::timeout_at(next, report.client.step()).await;
            match heard {
                Err(_) if deadline.is_some_and(|at| tokio::time::Instant::now() > at) => {
                    let expected = self.expected();
                    let (heard, left) = (report.heard.len(), report.client.unacknowledged());
                    let what = format!(
                        "heard {heard} of {expected:?}, {left} not acknowledged after {REST:?}"
                    );
                    return Err(report.client.failure(&what));
                }
                Err(_) if deadline.is_none() => {
                    report.sent += 1;
                    let n = report.sent;
                    let id = format!("{}-{n}", self.index);
                    report
                        .client
                        .send(&format!(
                            "<message to='{to}' type='{kind}' id='{id}'><body>{n}</body></message>"
                        ))
                        .await
                        .or_else(|error| other_way.as_ref().map(|_| ()).ok_or(error))?;
                }
                Err(_) => {}
                Ok(heard) => {
                    next -= PERIOD;
                    match heard? {
                        None => report.client.answer_if_asked().await?,
                        Some(Heard::Element(element)) => report.take(&element)?,
                        Some(ended) => {
                            let Some(way) = &other_way else {
                                let what = format!("the connection did not survive: {ended:?}");
                                return Err(report.client.failure(&what));
                            };
                            let began = Instant::now();
                            let answer = report.client.resume(way, &login).await?;
                            if !answer.is("resumed", ns::SM) {
                                let what = format!("not resumed: {}", written(&answer));
                                return Err(report.client.failure(&what));
                            }
                            report.resumed.push(began.elapsed());
                        }
                    }
                }
            }
        }
    }

    /// How many messages this client must receive; none while a client still sends.
    fn expected(&self) -> Option<u64> {
        let sent = self.sent.borrow();
        let others = sent.iter().filter(|(i, _)| self.all || **i != self.index);
        (sent.len() == self.count).then(|| others.map(|(_, n)| n).sum())
    }

    fn is_over(&self, report: &Report) -> bool {
        let heard = report.heard.len() as u64;
        report.client.unacknowledged() == 0 && self.expected().is_some_and(|all| heard >= all)
    }
}

impl Report {
    fn take(&mut self, element: &Element) -> Result<()> {
        if element.name == "presence" && element.attr("type") != Some("error") {
            self.presences.push(element.clone());
            return Ok(());
        }
        let said = (element.attr("type") != Some("error"))
            .then(|| said(element))
            .flatten();
        match said {
            Some(said) => self.heard.push(said),
            None => return Err(self.client.failure("something unexpected came")),
        }
        Ok(())
    }

    /// Checks that the messages of that sender are 1, 2, 3, … up to `sent`.
    pub fn heard_all_of(&self, from: &str, sent: u64) -> Result<()> {
        let numbers = self.heard.iter().filter(|s| s.from == from);
        once_in_order(numbers.map(|s| s.number), sent)
            .with_context(|| format!("{} heard of {from}", self.client.name()))
    }

    /// The longest time without a message, since `since`.
    pub fn longest_silence(&self, since: Instant) -> Duration {
        let times = self.heard.iter().map(|s| s.at).filter(|at| *at >= since);
        let mut last = since;
        let mut longest = Duration::ZERO;
        for at in times {
            longest = longest.max(at.duration_since(last));
            last = at;
        }
        longest
    }

    /// Checks that its archive of messages from others has the received messages, with the same ids.
    pub async fn archive_is_what_it_heard(&mut self) -> Result<()> {
        let archived = archive(&mut self.client).await?;
        let own = self.client.jid().to_owned();
        let of_others: Vec<(u64, Option<String>)> = archived
            .iter()
            .filter(|s| s.from != own)
            .map(|s| (s.number, s.stanza_id.clone()))
            .collect();
        let heard: Vec<(u64, Option<String>)> = self
            .heard
            .iter()
            .map(|s| (s.number, s.stanza_id.clone()))
            .collect();
        if of_others != heard {
            let at = of_others.iter().zip(&heard).position(|(a, b)| a != b);
            bail!(
                "{}: the archive holds {} and {} were heard, the first difference is at {at:?}: {:?} {:?}",
                self.client.name(),
                of_others.len(),
                heard.len(),
                at.map(|at| &of_others[at.saturating_sub(2)..(at + 3).min(of_others.len())]),
                at.map(|at| &heard[at.saturating_sub(2)..(at + 3).min(heard.len())]),
            );
        }
        let sent = archived.iter().filter(|s| s.from == own);
        once_in_order(sent.map(|s| s.number), self.sent)
            .with_context(|| format!("the sent messages in the archive of {}", self.client.name()))
    }
}

fn once_in_order(numbers: impl Iterator<Item = u64>, sent: u64) -> Result<()> {
    let numbers: Vec<u64> = numbers.collect();
    if numbers.iter().copied().eq(1..=sent) {
        return Ok(());
    }
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for number in &numbers {
        *counts.entry(*number).or_default() += 1;
    }
    let missing: Vec<u64> = (1..=sent).filter(|n| !counts.contains_key(n)).collect();
    let twice: Vec<u64> = counts
        .iter()
        .filter(|(_, c)| **c > 1)
        .map(|(n, _)| *n)
        .collect();
    let order = numbers.windows(2).find(|w| w[0] >= w[1]);
    bail!(
        "{} of {sent}, missing {missing:?}, more than once {twice:?}, out of order {order:?}",
        numbers.len()
    )
}

/// Checks that all clients received the same messages in the same order.
pub fn one_order(reports: &[Report]) -> Result<()> {
    let order = |report: &Report| -> Vec<(String, u64)> {
        let heard = report.heard.iter();
        heard.map(|s| (s.from.clone(), s.number)).collect()
    };
    let first = reports.first().context("there is no report")?;
    let expected = order(first);
    for report in reports {
        let got = order(report);
        if let Some(at) =
            (0..expected.len().max(got.len())).find(|i| expected.get(*i) != got.get(*i))
        {
            bail!(
                "{} and {} differ at {at}: {:?} {:?}",
                first.client.name(),
                report.client.name(),
                expected.get(at),
                got.get(at)
            );
        }
    }
    Ok(())
}

/// A message with a number in it.
fn said(message: &Element) -> Option<Said> {
    let number = message.child("body", ns::CLIENT)?.text().parse().ok()?;
    let id = message.child("stanza-id", ns::STANZA_ID);
    Some(Said {
        from: message.attr("from")?.to_owned(),
        number,
        stanza_id: id.and_then(|id| id.attr("id")).map(str::to_owned),
        at: Instant::now(),
    })
}

/// The client's whole archive, by pages.
pub async fn archive(client: &mut Client) -> Result<Vec<Said>> {
    let (mam, rsm) = (ns::MAM, ns::RSM);
    let mut found: Vec<Said> = Vec::new();
    let mut after = String::new();
    loop {
        let id = format!("page-{}", found.len());
        client
            .send(&format!(
                "<iq type='set' id='{id}'><query xmlns='{mam}'><set xmlns='{rsm}'><max>100</max>{after}</set></query></iq>"
            ))
            .await?;
        let fin = loop {
            let element = client.element().await?;
            if element.name == "iq" {
                break element;
            }
            let result = element.child("result", ns::MAM);
            let message = result
                .and_then(|r| r.child("forwarded", ns::FORWARD))
                .and_then(|f| f.child("message", ns::CLIENT));
            let said = message.and_then(said);
            let Some(mut said) = said else {
                return Err(client.failure("this is no page of an archive"));
            };
            said.stanza_id = result.and_then(|r| r.attr("id")).map(str::to_owned);
            found.push(said);
        };
        let Some(fin) = fin.child("fin", ns::MAM) else {
            return Err(client.failure("the archive was refused"));
        };
        if fin.attr("complete") == Some("true") {
            return Ok(found);
        }
        let last = fin.child("set", rsm).and_then(|s| s.child("last", rsm));
        let Some(last) = last.map(Element::text) else {
            return Err(client.failure("the page has no end"));
        };
        after = format!("<after>{last}</after>");
    }
}
