//! Resolves the host names of bootstraps without blocking the event loop.
//!
//! The system's resolver blocks, so a helper thread calls it for one name after the other and wakes the
//! loop after each answer. The first name starts the thread; a node whose bootstraps are addresses has
//! none. Answers are not cached: each dial resolves its name again.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread;

use mio::Waker;

use crate::limits::NAMES_WAITING_MAX;
use crate::net::peer::Dial;

/// Maximum number of addresses of one host name that are tried, in the order of the answer.
const NAME_ADDRESSES_MAX: usize = 8;

/// A name to resolve for a dial.
#[derive(Debug)]
pub(super) struct Question {
    /// The dial, which has no addresses yet.
    pub(super) dial: Dial,
    /// The host's name.
    pub(super) host: Arc<str>,
    /// The port.
    pub(super) port: u16,
}

/// The answer to a question.
#[derive(Debug)]
pub(super) struct Answer {
    /// The question.
    pub(super) question: Question,
    /// The addresses of the host, the best one first, or the error of the system's resolver.
    pub(super) addresses: io::Result<Vec<SocketAddr>>,
}

/// The event loop's interface to the helper thread.
pub(super) struct Resolver {
    waker: Arc<Waker>,
    helper: Option<Helper>,
}

struct Helper {
    questions: SyncSender<Question>,
    answers: Receiver<Answer>,
}

impl Resolver {
    /// A resolver that wakes the loop through `waker`.
    pub(super) fn new(waker: Arc<Waker>) -> Self {
        Self { waker, helper: None }
    }

    /// Begins to resolve a name.
    ///
    /// # Errors
    ///
    /// The question, if too many questions wait or the thread cannot be started.
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

    /// The next answer, if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Disconnected`] if the thread has panicked.
    pub(super) fn next_answer(&self) -> Result<Answer, TryRecvError> {
        self.helper.as_ref().map_or(Err(TryRecvError::Empty), |helper| helper.answers.try_recv())
    }
}

impl Helper {
    fn start(waker: Arc<Waker>) -> io::Result<Self> {
        let (questions, asked) = sync_channel::<Question>(NAMES_WAITING_MAX);
        let (answer, answers) = sync_channel(NAMES_WAITING_MAX);
        // The thread ends when the loop drops its end of either channel.
        thread::Builder::new().name("names".to_owned()).spawn(move || {
            let waker = WakeOnDrop(waker); // declared first, so dropped after the ends of the channels
            let (asked, answer) = (asked, answer);
            for question in asked {
                let addresses = (&*question.host, question.port)
                    .to_socket_addrs()
                    .map(|found| found.take(NAME_ADDRESSES_MAX).collect());
                if answer.send(Answer { question, addresses }).is_err() || waker.0.wake().is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { questions, answers })
    }
}

/// Wakes the loop when it is dropped.
struct WakeOnDrop(Arc<Waker>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        let _ = self.0.wake(); // fails only if the loop is gone too
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::action::DialId;
    use mio::{Events, Poll, Token};

    #[test]
    fn an_answer_wakes_the_loop() {
        let mut poll = Poll::new().expect("a poll");
        let waker = Arc::new(Waker::new(poll.registry(), Token(1)).expect("a waker"));
        let mut resolver = Resolver::new(waker);
        assert!(matches!(resolver.next_answer(), Err(TryRecvError::Empty)));
        let host = Arc::from("localhost");
        let dial = Dial::new(DialId(1), None, Vec::new());
        resolver.ask(Question { dial, host, port: 7 }).expect("no question waits");
        let mut events = Events::with_capacity(4);
        while events.is_empty() {
            let polled = poll.poll(&mut events, None);
            assert!(polled.is_ok() || polled.is_err_and(|error| error.kind() == io::ErrorKind::Interrupted));
        }
        let answer = resolver.next_answer().expect("the event announced an answer");
        assert_eq!(answer.question.dial.id, DialId(1));
        let addresses = answer.addresses.expect("every host has a localhost");
        assert!(addresses.iter().all(|address| address.ip().is_loopback() && address.port() == 7), "{addresses:?}");
    }
}
