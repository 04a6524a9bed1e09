//! The content of the entries in the store.
//!
//! The frame of an entry has a checksum (`segment`), so that these readers get what was written. They validate it
//! nevertheless.
//!
//! Guarantee: a reader returns exactly what was written, or an error. No input makes it panic.
//!
//! ```text
//! a key:     0   the key, 32 bytes
//!            32  flags u8: bit 0 a record, bit 1 a tombstone of signed versions, bit 2 one of plain
//!                versions, bit 3 the record came from a client, bit 4 the time since the boot is known
//!            33  signed version u64, if bit 1; plain version u64, if bit 2
//!            ..  if bit 0: age, ms; saved, ms after the time in the version; if bit 4: boot u32, and saved, ms
//!                since that boot; then of the record block R of PROTOCOL.md 2: TTL, replication, flags, version, value
//! contacts:  0   contacts of PROTOCOL.md 2, to the end
//! a pack:    0   id of the pack: epoch u32, number u32
//!            8   key of the fingerprints, 16 bytes
//!            24  old tombstones to the end, each: fingerprint, 8 bytes; flags u8: bit 1 or bit 2, as above; version u64
//! ```
//!
//! Ages and moments take 1 to 10 bytes, with 7 bits in each byte: the lowest bits first, and bit 7 set if more follow.
//! `saved` may be before the time in the version: its sign is in the lowest bit, as Protocol Buffers encode `sint64`.
//! A record that a client has just stored takes 64 bytes with its frame, and its value; a tombstone takes 49, or 57 if
//! both a signed and a plain version have ended, and 17 in a pack, which takes 32 bytes besides.
//!
//! The CRC-32 of the value is not stored. The checksum of the frame covers the value, and the reader computes it.

use crate::contact::Contact;
use crate::id::Key;
use crate::node::persisted::{Pack, PackId, PersistedKey, PersistedRecord, SavedAt};
use crate::record::fingerprint::{Epoch, FINGERPRINT_KEY_SIZE, Fingerprint, FingerprintKey, OldTombstone};
use crate::record::{Age, Source, Tombstone, TombstoneClass, Version};
use crate::time::{BootTime, WallTime};
use crate::wire::codec::{List, Reader, WireError};
use crate::wire::peer::RecordBlock;

const RECORD: u8 = 1;
const SIGNED_TOMBSTONE: u8 = 1 << 1;
const PLAIN_TOMBSTONE: u8 = 1 << 2;
const FROM_CLIENT: u8 = 1 << 3;
const SINCE_BOOT: u8 = 1 << 4;

/// The flags that only a record has.
const OF_RECORD: u8 = FROM_CLIENT | SINCE_BOOT;

/// Bytes of the id of a pack.
const PACK_ID_SIZE: usize = 8;

/// Bytes of a tombstone in a pack.
const OLD_TOMBSTONE_SIZE: usize = 17;

/// Whether the key has neither a record nor a tombstone: then it has no entry.
pub(super) fn is_removal(persisted: &PersistedKey) -> bool {
    persisted.record.is_none() && persisted.tombstone.is_none_or(Tombstone::is_empty)
}

/// Appends the entry of a key to `out`.
pub(super) fn write_key(persisted: &PersistedKey, out: &mut Vec<u8>) {
    let tombstone = persisted.tombstone.unwrap_or_default();
    let record = persisted.record.as_ref();
    let bits = [
        (RECORD, record.is_some()),
        (SIGNED_TOMBSTONE, tombstone.signed.is_some()),
        (PLAIN_TOMBSTONE, tombstone.plain.is_some()),
        (FROM_CLIENT, record.is_some_and(|record| record.source == Source::Client)),
        (SINCE_BOOT, record.is_some_and(|record| record.saved.boot.is_some())),
    ];
    let flags = bits.into_iter().filter(|(_, is_set)| *is_set).fold(0, |flags, (bit, _)| flags | bit);
    out.extend_from_slice(persisted.key.as_bytes());
    out.push(flags);
    for version in [tombstone.signed, tombstone.plain].into_iter().flatten() {
        out.extend_from_slice(&version.bits().to_be_bytes());
    }
    if let Some(PersistedRecord { record, age, saved, .. }) = record {
        write_number(age.0.into(), out);
        write_number(signed_bits(saved.wall.as_millis().wrapping_sub(record.version.time().as_millis())), out);
        if let Some(BootTime { boot, millis }) = saved.boot {
            out.extend_from_slice(&boot.to_be_bytes());
            write_number(millis, out);
        }
        RecordBlock::of(record, *age).write_short(out);
    }
}

/// The key of the entry that [`write_key`] wrote.
///
/// # Errors
///
/// If the entry is too short.
pub(super) fn key_of(entry: &[u8]) -> Result<Key, WireError> {
    Reader::new(entry).array("key").map(Key::new)
}

/// Reads the entry that [`write_key`] wrote.
///
/// # Errors
///
/// What is wrong with the entry.
pub(super) fn read_key(entry: &[u8]) -> Result<PersistedKey, WireError> {
    let mut reader = Reader::new(entry);
    let key = Key::new(reader.array("key")?);
    let flags = reader.u8("flags")?;
    let is_known = flags & !(RECORD | SIGNED_TOMBSTONE | PLAIN_TOMBSTONE | OF_RECORD) == 0;
    if !is_known || flags & !OF_RECORD == 0 || flags & RECORD == 0 && flags & OF_RECORD != 0 {
        let expected = "a record, optionally from a client, or tombstones";
        return Err(WireError::field("flags", flags, expected));
    }
    let mut version = |bit, field| {
        let is_present = flags & bit != 0;
        is_present.then(|| reader.u64(field).map(Version::from_bits)).transpose()
    };
    let signed = version(SIGNED_TOMBSTONE, "signed version")?;
    let plain = version(PLAIN_TOMBSTONE, "plain version")?;
    let tombstone = Some(Tombstone { signed, plain }).filter(|tombstone| !tombstone.is_empty());
    if flags & RECORD == 0 {
        reader.finish()?;
        return Ok(PersistedKey { key, record: None, tombstone });
    }
    let age = read_number("age", &mut reader)?;
    let age = Age(u32::try_from(age).map_err(|_| WireError::field("age", age, "32 bits"))?);
    let after = of_signed_bits(read_number("saved", &mut reader)?);
    let boot = if flags & SINCE_BOOT == 0 {
        None
    } else {
        Some(BootTime { boot: reader.u32("boot")?, millis: read_number("saved since the boot", &mut reader)? })
    };
    let source = if flags & FROM_CLIENT == 0 { Source::Peer } else { Source::Client };
    let block = RecordBlock::read_short(&mut reader, key, age)?;
    let saved = SavedAt { wall: WallTime::from_millis(block.version.time().as_millis().wrapping_add(after)), boot };
    let record = block.to_record().map(|record| PersistedRecord { record, age, saved, source });
    Ok(PersistedKey { key, record, tombstone })
}

/// Appends a number, whose size depends on its value.
fn write_number(mut number: u64, out: &mut Vec<u8>) {
    while number >= 1 << 7 {
        out.push(number.to_le_bytes()[0] | 1 << 7);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Reads what [`write_number`] wrote.
fn read_number(field: &'static str, reader: &mut Reader<'_>) -> Result<u64, WireError> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = reader.u8(field)?;
        let bits = u64::from(byte & !(1 << 7));
        number |= bits << shift;
        if byte >> 7 == 0 {
            let is_shortest = (byte != 0 || shift == 0) && bits << shift >> shift == bits;
            return if is_shortest { Ok(number) } else { Err(WireError::field(field, byte, "no superfluous bits")) };
        }
    }
    Err(WireError::field(field, number, "10 bytes at most"))
}

/// The bits of a number with a sign, so that those of a small number are a small number.
fn signed_bits(number: u64) -> u64 {
    let number = number.cast_signed();
    (number << 1 ^ number >> 63).cast_unsigned()
}

/// The reverse of [`signed_bits`].
fn of_signed_bits(bits: u64) -> u64 {
    bits >> 1 ^ (bits & 1).wrapping_neg()
}

/// Appends the id of a pack, the content of its removal, to `out`.
pub(super) fn write_pack_id(id: PackId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.epoch.0.to_be_bytes());
    out.extend_from_slice(&id.number.to_be_bytes());
}

/// Appends the entry of a pack to `out`.
pub(super) fn write_pack(pack: &Pack, out: &mut Vec<u8>) {
    write_pack_id(pack.id, out);
    out.extend_from_slice(&pack.fingerprint_key.bytes());
    for OldTombstone { fingerprint, class, version } in &pack.tombstones {
        out.extend_from_slice(&fingerprint.bytes());
        out.push(match class {
            TombstoneClass::Plain => PLAIN_TOMBSTONE,
            TombstoneClass::Signed => SIGNED_TOMBSTONE,
        });
        out.extend_from_slice(&version.bits().to_be_bytes());
    }
}

/// The id in the entry of a pack or of its removal.
///
/// # Errors
///
/// If the entry is too short.
pub(super) fn pack_of(entry: &[u8]) -> Result<PackId, WireError> {
    let mut reader = Reader::new(entry);
    Ok(PackId { epoch: Epoch(reader.u32("epoch")?), number: reader.u32("number of the pack")? })
}

/// Reads the entry that [`write_pack`] wrote.
///
/// # Errors
///
/// What is wrong with the entry.
pub(super) fn read_pack(entry: &[u8]) -> Result<Pack, WireError> {
    let id = pack_of(entry)?;
    let mut reader = Reader::new(&entry[PACK_ID_SIZE..]);
    let fingerprint_key = FingerprintKey::new(reader.array("key of the fingerprints")?);
    let count = (entry.len() - PACK_ID_SIZE - FINGERPRINT_KEY_SIZE) / OLD_TOMBSTONE_SIZE;
    let mut tombstones = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let fingerprint = Fingerprint::new(reader.array("fingerprint")?);
        let class = match reader.u8("flags")? {
            PLAIN_TOMBSTONE => TombstoneClass::Plain,
            SIGNED_TOMBSTONE => TombstoneClass::Signed,
            flags => return Err(WireError::field("flags", flags, "a tombstone of signed or of plain versions")),
        };
        let version = Version::from_bits(reader.u64("version")?);
        tombstones.push(OldTombstone { fingerprint, class, version });
    }
    reader.finish()?;
    Ok(Pack { id, fingerprint_key, tombstones })
}

/// Appends the entry of the contacts to `out`.
pub(super) fn write_contacts(contacts: &[Contact], out: &mut Vec<u8>) {
    List::lend(contacts).write(out);
}

/// Reads the entry that [`write_contacts`] wrote.
///
/// # Errors
///
/// What is wrong with the entry.
pub(super) fn read_contacts(entry: &[u8]) -> Result<Vec<Contact>, WireError> {
    Ok(List::receive(entry)?.iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::segment::{Kind, begin_entry};
    use crate::limits::{CONTACT_SIZE, VALUE_SIZE_MAX};
    use crate::record::{Class, Record, Ttl, crc_of};
    use proptest::prelude::*;

    fn any_pack() -> impl Strategy<Value = Pack> {
        let tombstone = (any::<[u8; 8]>(), any::<bool>(), any::<u64>()).prop_map(|(fingerprint, is_plain, version)| {
            let class = if is_plain { TombstoneClass::Plain } else { TombstoneClass::Signed };
            OldTombstone { fingerprint: Fingerprint::new(fingerprint), class, version: Version::from_bits(version) }
        });
        let tombstones = proptest::collection::vec(tombstone, 1..300);
        (any::<(u32, u32, [u8; 16])>(), tombstones).prop_map(|((epoch, number, secret), tombstones)| {
            let id = PackId { epoch: Epoch(epoch), number };
            Pack { id, fingerprint_key: FingerprintKey::new(secret), tombstones }
        })
    }

    /// Numbers of each size.
    fn any_number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..u64::BITS).prop_map(|(number, shift)| number >> shift)
    }

    fn any_age() -> impl Strategy<Value = u32> {
        any_number().prop_map(|number| u32::try_from(number).unwrap_or(u32::MAX))
    }

    fn any_persisted() -> impl Strategy<Value = PersistedKey> {
        let class = prop_oneof![Just(Class::Plain), Just(Class::Signed), Just(Class::Hashed)];
        let source = prop_oneof![Just(Source::Client), Just(Source::Peer)];
        let size = prop_oneof![1..300_usize, Just(VALUE_SIZE_MAX)];
        let fields = (class, any_number(), 1..=u16::MAX, 1..=20_u8, any_age(), any_number(), source);
        let record = (fields, size, any::<u8>());
        let versions = (proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>()));
        (any::<[u8; 32]>(), proptest::option::of(record), versions).prop_map(|(key, record, (signed, plain))| {
            let key = Key::new(key);
            let tombstone = Tombstone { signed: signed.map(Version::from_bits), plain: plain.map(Version::from_bits) };
            let record = record.map(|((class, version, ttl, replication, age, saved, source), size, fill)| {
                let value: Vec<u8> = (0..size).map(|at| fill ^ u8::try_from(at % 251).expect("a byte")).collect();
                let ttl = Ttl::from_secs(ttl).expect("not zero");
                let (version, crc) = (Version::from_bits(version), crc_of(&value));
                let record = Record { key, class, version, ttl, replication, crc, value: value.into() };
                let boot = (saved % 2 == 0).then_some(BootTime { boot: age ^ 5, millis: saved / 3 });
                let saved = SavedAt { wall: WallTime::from_millis(saved), boot };
                PersistedRecord { record, age: Age(age), saved, source }
            });
            PersistedKey { key, record, tombstone: Some(tombstone).filter(|tombstone| !tombstone.is_empty()) }
        })
    }

    fn written(persisted: &PersistedKey) -> Vec<u8> {
        let mut entry = Vec::new();
        write_key(persisted, &mut entry);
        entry
    }

    proptest! {
        #[test]
        fn a_key_is_read_as_it_was_written(persisted in any_persisted()) {
            let entry = written(&persisted);
            prop_assert_eq!(key_of(&entry), Ok(persisted.key));
            if is_removal(&persisted) {
                prop_assert!(read_key(&entry).is_err(), "a key without a state has no entry");
            } else {
                prop_assert_eq!(read_key(&entry), Ok(persisted));
            }
        }

        #[test]
        fn a_pack_is_read_as_it_was_written(pack in any_pack(), at in any::<prop::sample::Index>()) {
            let mut entry = Vec::new();
            write_pack(&pack, &mut entry);
            prop_assert_eq!(entry.len(), 24 + 17 * pack.tombstones.len());
            prop_assert_eq!(read_pack(&entry), Ok(pack.clone()));
            let cut = at.index(entry.len());
            prop_assert!(read_pack(&entry[..cut]).is_err() || cut % OLD_TOMBSTONE_SIZE == 24 % OLD_TOMBSTONE_SIZE);
            let mut id = Vec::new();
            write_pack_id(pack.id, &mut id);
            prop_assert_eq!(pack_of(&entry), Ok(pack.id));
            prop_assert_eq!(pack_of(&id), Ok(pack.id));
        }

        /// An entry whose value is cut looks like an entry with a shorter value: the frame says how long it is.
        #[test]
        fn an_entry_that_is_cut_before_its_value_is_refused(
            persisted in any_persisted(),
            at in any::<prop::sample::Index>(),
        ) {
            let entry = written(&persisted);
            let value = persisted.record.map_or(0, |persisted| persisted.record.value.len());
            prop_assert!(read_key(&entry[..at.index((entry.len() - value).max(1))]).is_err());
        }

        /// The readers validate the fields, and read none past the end of the entry.
        #[test]
        fn no_content_makes_a_reader_panic(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(persisted) = read_key(&content) {
                let again = written(&persisted);
                prop_assert_eq!(again.len(), content.len(), "no number takes more bytes than it has to");
                prop_assert_eq!(read_key(&again), Ok(persisted));
            }
            if let Ok(pack) = read_pack(&content) {
                let mut again = Vec::new();
                write_pack(&pack, &mut again);
                prop_assert_eq!(&again, &content);
                prop_assert!(!pack.tombstones.is_empty());
            }
            prop_assert_eq!(read_contacts(&content).is_ok(), content.len() % CONTACT_SIZE == 0);
        }
    }

    #[test]
    fn a_number_takes_as_many_bytes_as_it_has_to_and_no_other_form_is_read() {
        let numbers =
            [(0, 1), (127, 1), (128, 2), ((1 << 14) - 1, 2), (1 << 14, 3), (u64::MAX >> 1, 9), (u64::MAX, 10)];
        for (number, size) in numbers {
            let mut bytes = Vec::new();
            write_number(number, &mut bytes);
            assert_eq!((bytes.len(), read_number("age", &mut Reader::new(&bytes))), (size, Ok(number)));
        }
        let too_large = [[0xff; 9].as_slice(), &[2]].concat();
        for bytes in [&[0x80, 0][..], &[0xff, 0x80, 0], &too_large, &[0xff; 11]] {
            assert!(read_number("age", &mut Reader::new(bytes)).is_err(), "{bytes:?}");
        }
        for (number, bits) in [(0, 0), (u64::MAX, 1), (1, 2), (1 << 63, u64::MAX)] {
            assert_eq!((signed_bits(number), of_signed_bits(bits)), (bits, number));
        }
    }

    /// What a client has just stored, in a file with 100 bytes of value: 164 bytes with the frame.
    #[test]
    fn the_entry_of_a_new_record_has_56_bytes_besides_the_value() {
        let millis = 1_700_000_000_000;
        let value: Vec<u8> = (0..100).collect();
        let key = Key::new([7; 32]);
        let record = Record {
            key,
            class: Class::Plain,
            version: Version::from_bits(millis << 16 | 9),
            ttl: Ttl::from_secs(u16::MAX).expect("not zero"),
            replication: 8,
            crc: crc_of(&value),
            value: value.into(),
        };
        let a_year = 31_600_000_000;
        let boot = Some(BootTime { boot: u32::MAX, millis: a_year });
        let saved = SavedAt { wall: WallTime::from_millis(millis + 20), boot };
        let record = PersistedRecord { record, age: Age(20), saved, source: Source::Client };
        assert_eq!(written(&PersistedKey { key, record: Some(record), tombstone: None }).len(), 156);
    }

    #[test]
    fn a_tombstone_takes_at_most_57_bytes_on_disk() {
        let version = Some(Version::from_bits(u64::MAX));
        for (signed, plain, size) in [(None, version, 49), (version, None, 49), (version, version, 57)] {
            let ended =
                PersistedKey { key: Key::new([7; 32]), record: None, tombstone: Some(Tombstone { signed, plain }) };
            let mut framed = Vec::new();
            begin_entry(Kind::State, &mut framed, |out| write_key(&ended, out));
            assert_eq!(framed.len(), size);
        }
    }

    #[test]
    fn contacts_are_read_as_they_were_written() {
        let contact = |number: u8, at: &str| {
            Contact::new(crate::id::NodeId::new(Key::new([number; 32])), at.parse().expect("a literal"))
        };
        let contacts = [contact(1, "10.1.2.3:4"), contact(2, "[2001:db8::1]:5")];
        let mut entry = Vec::new();
        write_contacts(&contacts, &mut entry);
        assert_eq!(read_contacts(&entry).as_deref(), Ok(&contacts[..]));
    }
}
