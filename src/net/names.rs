//! Host names of bootstraps, resolved off the loop.
//!
//! The system's resolver blocks, so one helper thread asks it, one name after the other, and
//! wakes the loop when it has an answer. The thread is started by the first name: a node whose
//! bootstraps are addresses has none. Nothing is remembered: a name is resolved at each attempt.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use mio::Waker;

use crate::id::NodeId;
use crate::limits::{NAME_ADDRESSES_MAX, NAMES_WAITING_MAX};
use crate::node::action::DialId;

/// A name to be resolved, for a dial.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// For which dial.
    pub(super) dial: DialId,
    /// Who must be met there.
    pub(super) expect: Option<NodeId>,
    /// The host's name.
    pub(super) host: Arc<str>,
    /// The port.
    pub(super) port: u16,
}

/// What became of a question.
#[derive(Debug)]
pub(super) struct Answer {
    /// Which.
    pub(super) question: Question,
    /// Where the host is, the best place first; or what the resolver said.
    pub(super) addresses: io::Result<Vec<SocketAddr>>,
}

/// The resolver, as the loop sees it.
pub(super) struct Names {
    waker: Arc<Waker>,
    helper: Option<Helper>,
}

struct Helper {
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
}

impl Names {
    /// A resolver that wakes the loop by `waker`.
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waker, helper: None }
    }

    /// Asks for the addresses of a name.
    ///
    /// # Errors
    ///
    /// The question, if too many wait or the thread cannot be started.
    pub(super) fn ask(&mut self, question: Question) -> Result<(), Question> {
        if self.helper.is_none() {
            self.helper = Helper::start(self.waker.clone()).ok();
        }
        match &self.helper {
            Some(helper) => helper.questions.try_send(question).map_err(|error| match error {
                TrySendError::Full(question) | TrySendError::Disconnected(question) => question,
            }),
            None => Err(question),
        }
    }

    /// The next answer, if one is there.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Disconnected`] if the thread is gone, which nothing but a panic ends.
    pub(super) fn next_answer(&self) -> Result<Answer, TryRecvError> {
        self.helper.as_ref().map_or(Err(TryRecvError::Empty), |helper| helper.answers.try_recv())
    }
}

impl Helper {
    fn start(waker: Arc<Waker>) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<Question>(NAMES_WAITING_MAX);
        let (answer, answers) = sync_channel(NAMES_WAITING_MAX);
        // It ends when the loop drops its end of either channel.
        thread::Builder::new().name("names".to_owned()).spawn(move || {
            let parting = Parting(waker); // before all that it has to outlive
            let (asked, answer) = (asked, answer);
            for question in asked {
                let addresses = (&*question.host, question.port)
                    .to_socket_addrs()
                    .map(|found| found.take(NAME_ADDRESSES_MAX).collect());
                if answer.send(Answer { question, addresses }).is_err() || parting.0.wake().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers })
    }
}

/// Wakes the loop when everything else of the thread is gone: the loop finds it so.
struct Parting(Arc<Waker>);

impl Drop for Parting {
    fn drop(&mut self) {
        let _ = self.0.wake(); // it fails only for a loop that is gone too
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll, Token};

    #[test]
    fn a_name_is_resolved_and_wakes_the_loop() {
        let mut poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(1)).expect("a waker"));
        let mut names = Names::new(waker);
        assert!(matches!(names.next_answer(), Err(TryRecvError::Empty)));
        let host = Arc::from("localhost");
        names.ask(Question { dial: DialId(1), expect: None, host, port: 7 }).expect("nothing waits");
        let mut events = Events::with_capacity(4);
        while events.is_empty() {
            let polled = poll.poll(&mut events, None);
            assert!(polled.is_ok() || polled.is_err_and(|error| error.kind() == io::ErrorKind::Interrupted));
        }
        let answer = names.next_answer().expect("what the loop was woken for");
        assert_eq!(answer.question.dial, DialId(1));
        let addresses = answer.addresses.expect("every host has a localhost");
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{addresses:?}");
    }
}
