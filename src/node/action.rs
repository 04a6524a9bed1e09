//! What a node wants done: the only way in which it touches the world.
//!
//! The caller lends an [`Actions`] to every verb of the node and performs, in their order, what
//! it finds in there before the next call. Messages are encoded at once, into one buffer that is
//! used again and again; a value is not copied but shared, and ends its message. A host that can
//! send the answer to a request at once may have it written where it will be sent from
//! ([`Actions::expect`]).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::id::{Key, NodeId};
use crate::limits::HELLO_TIMEOUT;
use crate::node::params::Endpoint;
use crate::node::persisted::Batch;
use crate::node::replies::Answers;
use crate::wire::api::ApiReply;
use crate::wire::codec::WireError;
use crate::wire::peer::{PROTOCOL, PeerMessage};

/// A connection to a peer, from the end of its TLS handshake on. Minted by the host, never used
/// for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// An attempt to open a connection. Minted by the node, never used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// One *request* of a client. Minted by the host and never used again, so that a late reply
/// finds nobody rather than a stranger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId {
    /// The connection it came on.
    pub connection: u64,
    /// Which request of that connection it is.
    pub request: u64,
}

/// How a connection to a peer came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This node dialled.
    Dialled(DialId),
    /// The peer dialled.
    Accepted,
}

/// Why no connection came of a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// Nobody answers there, or nobody that completes a handshake.
    Unreachable,
    /// Somebody answers, who is not the one that was expected, or no node of this kind.
    NotAuthentic,
}

/// What a peer did that must not be done: data for the log, and nothing a stranger wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It speaks another version of the protocol.
    Protocol {
        /// The one it named.
        found: u16,
    },
    /// It belongs to another network.
    OtherNetwork,
    /// It said nothing after TLS.
    NoHello,
    /// It sent something before its HELLO.
    BeforeHello {
        /// The message.
        name: &'static str,
    },
    /// It said HELLO twice.
    SecondHello,
    /// It sent something that is no message.
    Malformed {
        /// The message that it claims to be.
        name: &'static str,
        /// What is wrong with it.
        error: WireError,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol { found } => write!(f, "protocol {found}, expected {PROTOCOL}"),
            Self::OtherNetwork => write!(f, "another network"),
            Self::NoHello => write!(f, "no HELLO within {} s", HELLO_TIMEOUT.as_secs()),
            Self::BeforeHello { name } => write!(f, "{name} before HELLO"),
            Self::SecondHello => write!(f, "a second HELLO"),
            Self::Malformed { name, error } => write!(f, "{name}: {error}"),
        }
    }
}

/// Something for the host to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Open a connection; answered by `on_secured` or by `on_dial_failed`, once.
    Dial {
        /// Comes back with the answer.
        dial: DialId,
        /// Where.
        to: Endpoint,
        /// Who must be met there, if that is known.
        expect: Option<NodeId>,
    },
    /// Send a message to a peer. A connection that is gone, or whose outbox is full, loses it.
    Send {
        /// Over which connection.
        conn: ConnId,
        /// The message.
        message: Encoded,
    },
    /// Answer a client. A client that is gone loses it.
    Reply {
        /// Which request.
        client: ClientId,
        /// The answer.
        message: Encoded,
    },
    /// Close a connection once what was sent over it is out. `on_closed` does not follow.
    Close {
        /// Which.
        conn: ConnId,
        /// What the peer did, if it is turned away: worth a line in the host's log, which knows
        /// how many such lines are too many.
        fault: Option<Fault>,
    },
    /// Keep this over a restart, and say so by `on_saved`, once. No other batch is wanted before.
    Save {
        /// What.
        batch: Arc<Batch>,
    },
}

/// A message in the buffer of an [`Actions`]: see [`Actions::bytes`].
#[derive(Clone, Debug)]
pub struct Encoded {
    head: Range<usize>,
    value: Option<Arc<[u8]>>,
}

/// The actions of one call, in their order.
#[derive(Debug, Default)]
pub struct Actions {
    list: Vec<Action>,
    heads: Vec<u8>,
    /// The request whose answer, if it is given now, goes to `answers`.
    asking: Option<ClientId>,
    answers: Answers,
}

impl Actions {
    /// No actions yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is to be done, first things first.
    pub fn iter(&self) -> impl Iterator<Item = &Action> {
        self.list.iter()
    }

    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bytes of a message of this call: its head, and the value that follows it.
    pub fn bytes<'a>(&'a self, message: &'a Encoded) -> (&'a [u8], &'a [u8]) {
        (&self.heads[message.head.clone()], message.value.as_deref().unwrap_or_default())
    }

    /// Has the answer to `client` written to the end of [`Actions::answers`], instead of being
    /// wanted as an action, if it is given before [`Actions::is_awaited`] is asked. So nothing is
    /// allocated, counted or looked up for its way out, and a value that is here is copied once.
    pub fn expect(&mut self, client: ClientId) {
        self.asking = Some(client);
    }

    /// Whether an answer was expected and not given. If it comes later, it is an action.
    pub fn is_awaited(&mut self) -> bool {
        self.asking.take().is_some()
    }

    /// The answers that were expected and given, for the caller to take away.
    pub fn answers(&mut self) -> &mut Answers {
        &mut self.answers
    }

    /// Forgets all actions, once they are performed; keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.heads.clear();
    }

    /// Wants a connection opened.
    pub(crate) fn dial(&mut self, dial: DialId, to: Endpoint, expect: Option<NodeId>) {
        self.list.push(Action::Dial { dial, to, expect });
    }

    /// Wants `message` sent, whose value, if it has one, is `value`.
    pub(crate) fn send(&mut self, conn: ConnId, message: &PeerMessage<'_>, value: Option<Arc<[u8]>>) {
        assert_eq!(
            message.value().len(),
            value.as_ref().map_or(0, |value| value.len()),
            "the value of another message"
        );
        let start = self.heads.len();
        message.encode_head(&mut self.heads);
        let message = Encoded { head: start..self.heads.len(), value };
        self.list.push(Action::Send { conn, message });
    }

    /// Wants a client told that what it asked for is done.
    pub(crate) fn reply_done(&mut self, client: ClientId, key: Key) {
        self.reply(client, &ApiReply::Success { key, value: &[] }, None);
    }

    /// Wants a client told that what it asked for is not to be had.
    pub(crate) fn reply_failure(&mut self, client: ClientId, key: Key) {
        self.reply(client, &ApiReply::Failure { key }, None);
    }

    /// Wants a client given the value that it asked for.
    pub(crate) fn reply_value(&mut self, client: ClientId, key: Key, value: &Arc<[u8]>) {
        self.reply(client, &ApiReply::Success { key, value }, Some(value));
    }

    fn reply(&mut self, client: ClientId, reply: &ApiReply<'_>, value: Option<&Arc<[u8]>>) {
        if self.asking == Some(client) {
            self.asking = None;
            return self.answers.push(reply, value);
        }
        let start = self.heads.len();
        reply.encode_head(&mut self.heads);
        let message = Encoded { head: start..self.heads.len(), value: value.cloned() };
        self.list.push(Action::Reply { client, message });
    }

    /// Wants `batch` kept.
    pub(crate) fn save(&mut self, batch: Batch) {
        self.list.push(Action::Save { batch: Arc::new(batch) });
    }

    /// Wants a connection closed.
    pub(crate) fn close(&mut self, conn: ConnId, fault: Option<Fault>) {
        self.list.push(Action::Close { conn, fault });
    }
}
