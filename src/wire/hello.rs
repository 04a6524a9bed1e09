//! How nodes introduce themselves: HELLO, its flags, and what they tell each other when those change. Source:
//! `PROTOCOL.md` 2.

use crate::contact::Contact;
use crate::limits::AGENT_SIZE_MAX;
use crate::time::WallTime;
use crate::wire::codec::{List, Reader, WireError};

/// How a node introduces itself. Its id is not part of it, because TLS proves the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The version of the protocol.
    pub protocol: u16,
    /// The `FLAG_` bits below; receivers ignore all other bits.
    pub flags: u16,
    /// SHA-256 of the name of the network.
    pub network: [u8; 32],
    /// The port at which it accepts peers, at the address from which it is seen.
    pub port: u16,
    /// The wall clock of the sender.
    pub wall: WallTime,
    /// The name of the sender's program, for the log; at most 64 bytes.
    pub agent: &'a str,
}

/// Flag of a HELLO: other nodes may dial the sender.
pub const FLAG_SERVING: u16 = 1;

/// Flag of a HELLO: the sender can dial IPv4 addresses.
pub const FLAG_IPV4: u16 = 2;

/// Flag of a HELLO: the sender can dial IPv6 addresses.
pub const FLAG_IPV6: u16 = 4;

/// Flag of a HELLO: the sender is a bridge.
pub const FLAG_BRIDGE: u16 = 8;

/// Flag of a HELLO: the sender answers TIME.
pub const FLAG_TELLS_TIME: u16 = 16;

/// Flag of a HELLO: the sender knows the bit by which a FIND VALUE REPLY says that its record is tentative.
pub const FLAG_KNOWS_TENTATIVE: u16 = 32;

/// Flag of a HELLO: the sender has not settled since its start or its last sleep. It may lack what others wrote while it
/// did not run.
pub const FLAG_UNSETTLED: u16 = 64;

/// Flag of a HELLO: the receiver is a contact of the sender, which has dialled it before.
pub const FLAG_DIALLED: u16 = 128;

/// What a node tells of the two address families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridges<'a> {
    /// The flags of the sender, which replace those of its HELLO.
    pub flags: u16,
    /// Other nodes that have said to the sender that they are bridges; at most
    /// [`BRIDGES_MAX`](crate::limits::BRIDGES_MAX).
    pub known: List<'a, Contact>,
}

impl<'a> Hello<'a> {
    pub(super) fn read(body: &mut Reader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            protocol: body.u16("protocol")?,
            flags: body.u16("flags")?,
            network: body.array("network")?,
            port: body.u16("listening port")?,
            wall: WallTime::from_millis(body.u64("wall clock")?),
            agent: {
                let bytes = body.rest();
                std::str::from_utf8(bytes)
                    .map_err(|error| WireError::field("agent", bytes[error.valid_up_to()], "UTF-8"))?
            },
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        assert!(self.agent.len() <= AGENT_SIZE_MAX, "our own agent is short");
        out.extend_from_slice(&self.protocol.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.network);
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(&self.wall.as_millis().to_be_bytes());
        out.extend_from_slice(self.agent.as_bytes());
    }
}
