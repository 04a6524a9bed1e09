//! What a node asks its host to do: the only output of a node.
//!
//! The host lends an [`Actions`] to each method of the node that it calls. Before the next call it
//! performs the actions in their order. The node encodes each message at once into one buffer that is
//! reused. A value is shared, not copied, and is the end of its message. A host that can send the answer
//! to a request immediately can have it written directly into its output ([`Actions::expect`]).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::id::{Key, NodeId, RpcId};
use crate::limits::HELLO_TIMEOUT;
use crate::node::params::Endpoint;
use crate::node::persisted::Batch;
use crate::node::replies::Answers;
use crate::wire::api::ApiReply;
use crate::wire::codec::WireError;
use crate::wire::peer::{PROTOCOL, PeerMessage, Reply};

/// Identifies a connection to a peer after its TLS handshake. The host chooses the number and never
/// reuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Identifies an attempt to open a connection. The node chooses the number and never reuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DialId(pub u64);

/// Identifies one *request* of a client. The host chooses the numbers and never reuses them, so that a
/// late reply never reaches another client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId {
    /// The connection that the request came on.
    pub connection: u64,
    /// The number of the request on that connection.
    pub request: u64,
}

/// What became of a request that the host passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has ended.
    Done,
    /// It is in flight. It costs some hundred times as much as one that has ended at once.
    InFlight,
    /// There is no room for it, and nothing has happened: the host passes it on again later.
    NoRoom,
}

/// Which side opened a connection to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This node did.
    Dialled(DialId),
    /// The peer did.
    Accepted,
}

/// The peer whose request this node answers, and where the reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) id: NodeId,
    pub(crate) conn: ConnId,
    pub(crate) rpc: RpcId,
}

/// Why a dial failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// The remote host refused the connection, or closed it before the handshake was complete: it runs, and no
    /// node serves this address.
    Refused,
    /// Nothing answered in time, or the handshake was not completed.
    Unreachable,
    /// A fault of this host prevented the attempt: it has no route, no descriptor or no port left, or could not
    /// resolve the name. It says nothing about the other node.
    LocalFault,
    /// The node at the address has another id than expected, or is not a node of this protocol.
    NotAuthentic,
}

/// How a peer violated the protocol. It is printed in the log, so it contains no text that the peer
/// sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer speaks another version of the protocol.
    Protocol {
        /// The version in its HELLO.
        found: u16,
    },
    /// The peer belongs to another network.
    OtherNetwork,
    /// The peer sent no HELLO in time.
    NoHello,
    /// The peer sent another message before its HELLO.
    BeforeHello {
        /// The name of that message.
        name: &'static str,
    },
    /// The peer sent a second HELLO.
    SecondHello,
    /// The peer sent a message that cannot be decoded.
    Malformed {
        /// The name of the message, from its header.
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
    /// Open a connection, and report the result once by `on_secured` or `on_dial_failed`.
    Dial {
        /// The number of the attempt, which the host returns with the result.
        dial: DialId,
        /// Where to connect.
        to: Endpoint,
        /// The id that the node there must prove, if this node knows it.
        expect: Option<NodeId>,
    },
    /// Send a message to a peer. The host drops it if the connection is closed. If the outbox of the
    /// connection has no room for it, the host sends ERROR 429 instead of a reply, and reports a request by
    /// `on_unsent`.
    Send {
        /// The connection to send it on.
        conn: ConnId,
        /// What it is, if it does not fit.
        sent: Sent,
        /// The message.
        message: Encoded,
    },
    /// Answer a client. The host drops the answer if the client has disconnected.
    Reply {
        /// The request that is answered.
        client: ClientId,
        /// The answer.
        message: Encoded,
    },
    /// Close a connection after all earlier messages were sent on it. The host does not call
    /// `on_closed` for it.
    Close {
        /// The connection to close.
        conn: ConnId,
        /// The fault of the peer, if that is the reason. The host logs it, and limits the rate of such
        /// lines.
        fault: Option<Fault>,
    },
    /// Write a batch to disk, and report the result once by `on_saved`. The node wants no other batch
    /// before that.
    Save {
        /// The batch.
        batch: Arc<Batch>,
    },
}

/// The kind of a message to a peer, and its RPC id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// A request of this node.
    Request(RpcId),
    /// A reply to the peer.
    Reply(RpcId),
    /// HELLO, GOODBYE or BRIDGES.
    Other,
}

/// A message in the buffer of an [`Actions`]; [`Actions::bytes`] returns its bytes.
#[derive(Clone, Debug)]
pub struct Encoded {
    head: Range<usize>,
    value: Option<Arc<[u8]>>,
}

/// The actions of one call, in order.
#[derive(Debug, Default)]
pub struct Actions {
    list: Vec<Action>,
    heads: Vec<u8>,
    /// The request whose answer goes to `answers`, if it comes in this call.
    asking: Option<ClientId>,
    answers: Answers,
}

impl Actions {
    /// No actions yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// All actions, in the order in which the host must perform them.
    pub fn iter(&self) -> impl Iterator<Item = &Action> {
        self.list.iter()
    }

    /// Whether there are no actions.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The bytes of a message of this call: its head, and its value, which follows the head.
    pub fn bytes<'a>(&'a self, message: &'a Encoded) -> (&'a [u8], &'a [u8]) {
        (&self.heads[message.head.clone()], message.value.as_deref().unwrap_or_default())
    }

    /// Appends the answer to `client` to [`Actions::answers`] instead of adding an action, if the answer
    /// comes before the call of [`Actions::is_awaited`]. This is the fast path for records that this node
    /// stores: it allocates nothing and copies the value once.
    pub fn expect(&mut self, client: ClientId) {
        self.asking = Some(client);
    }

    /// Whether the expected answer has not come. If it comes later, it comes as an action.
    pub fn is_awaited(&mut self) -> bool {
        self.asking.take().is_some()
    }

    /// The expected answers that have come; the caller sends and clears them.
    pub fn answers(&mut self) -> &mut Answers {
        &mut self.answers
    }

    /// Removes all actions after the host has performed them; the buffers keep their capacity.
    pub fn clear(&mut self) {
        self.list.clear();
        self.heads.clear();
    }

    /// Asks the host to open a connection.
    pub(crate) fn dial(&mut self, dial: DialId, to: Endpoint, expect: Option<NodeId>) {
        self.list.push(Action::Dial { dial, to, expect });
    }

    /// Asks the host to send `message`, whose value, if it has one, is `value`.
    pub(crate) fn send(&mut self, conn: ConnId, message: &PeerMessage<'_>, value: Option<Arc<[u8]>>) {
        let len = value.as_ref().map_or(0, |value| value.len());
        assert_eq!(message.value().len(), len, "the value of another message");
        let start = self.heads.len();
        message.encode_head(&mut self.heads);
        let sent = match message {
            PeerMessage::Request(rpc, _) => Sent::Request(*rpc),
            PeerMessage::Reply(rpc, _) => Sent::Reply(*rpc),
            PeerMessage::Hello(_) | PeerMessage::Goodbye | PeerMessage::Bridges(_) => Sent::Other,
        };
        let message = Encoded { head: start..self.heads.len(), value };
        self.list.push(Action::Send { conn, sent, message });
    }

    /// Sends a reply without a value to the request of a peer.
    pub(crate) fn reply_to(&mut self, caller: &Caller, reply: Reply<'_>) {
        self.send(caller.conn, &PeerMessage::Reply(caller.rpc, reply), None);
    }

    /// Answers a PUT by SUCCESS.
    pub(crate) fn reply_done(&mut self, client: ClientId, key: Key) {
        self.reply(client, &ApiReply::Success { key, value: &[] }, None);
    }

    /// Answers a request by FAILURE.
    pub(crate) fn reply_failure(&mut self, client: ClientId, key: Key) {
        self.reply(client, &ApiReply::Failure { key }, None);
    }

    /// Answers a GET by SUCCESS with the value.
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

    /// Asks the host to write `batch` to disk.
    pub(crate) fn save(&mut self, batch: Arc<Batch>) {
        self.list.push(Action::Save { batch });
    }

    /// Asks the host to close a connection.
    pub(crate) fn close(&mut self, conn: ConnId, fault: Option<Fault>) {
        self.list.push(Action::Close { conn, fault });
    }
}
