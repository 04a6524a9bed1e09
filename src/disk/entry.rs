//! The layout of what is kept, inside the store: entries that prove that they are whole.
//!
//! The store finds what it has written under a key; it does not notice every byte that has changed
//! since. So each entry begins with a CRC-32 over its key and all that follows, and whoever reads
//! it ends with exactly what was written, or with the reason why not. No bytes make this panic.
//!
//! ```text
//! a key:     0   CRC-32 u32
//!            4   what follows u8: bit 0 a record, bit 1 a signed version that is over, bit 2 a
//!                plain one, bit 3 the record was brought by a client
//!            5   signed version u64, if bit 1; plain version u64, if bit 2
//!            ..  saved u64, ms since 1970, and the record block R of PROTOCOL.md 2, if bit 0
//! contacts:  0   CRC-32 u32
//!            4   contacts of PROTOCOL.md 2, to the end
//! ```

use crate::contact::Contact;
use crate::id::Key;
use crate::limits::CONTACT_SIZE;
use crate::node::persisted::{PersistedKey, PersistedRecord};
use crate::record::{Source, Tombstone, Version};
use crate::time::WallTime;
use crate::wire::codec::{Item, Reader, WireError};
use crate::wire::peer::RecordBlock;

const RECORD: u8 = 1;
const SIGNED_OVER: u8 = 1 << 1;
const PLAIN_OVER: u8 = 1 << 2;
const BY_CLIENT: u8 = 1 << 3;

/// Bytes of the CRC-32 that an entry begins with.
const CRC_SIZE: usize = 4;

/// Writes the state of a key to `out`, which is emptied first; nothing, if the key is to be
/// forgotten.
pub(super) fn write_key(persisted: &PersistedKey, out: &mut Vec<u8>) {
    out.clear();
    let over = persisted.tombstone.unwrap_or_default();
    let by_client = persisted.record.as_ref().is_some_and(|record| record.source == Source::Client);
    let bits = [
        (RECORD, persisted.record.is_some()),
        (SIGNED_OVER, over.signed.is_some()),
        (PLAIN_OVER, over.plain.is_some()),
        (BY_CLIENT, by_client),
    ];
    let what = bits.into_iter().filter(|(_, is_set)| *is_set).fold(0, |bits, (bit, _)| bits | bit);
    if what == 0 {
        return;
    }
    out.extend_from_slice(&[0; CRC_SIZE]);
    out.push(what);
    for version in [over.signed, over.plain].into_iter().flatten() {
        out.extend_from_slice(&version.bits().to_be_bytes());
    }
    if let Some(PersistedRecord { record, age, saved, .. }) = &persisted.record {
        out.extend_from_slice(&saved.as_millis().to_be_bytes());
        RecordBlock::of(record, *age).write_head(out);
        out.extend_from_slice(&record.value);
    }
    seal(persisted.key.as_bytes(), out);
}

/// Reads what [`write_key`] has written under `key`.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn read_key(key: Key, entry: &[u8]) -> Result<PersistedKey, WireError> {
    let mut reader = unseal(key.as_bytes(), entry)?;
    let what = reader.u8("what follows")?;
    let is_known = what & !(RECORD | SIGNED_OVER | PLAIN_OVER | BY_CLIENT) == 0;
    if !is_known || what & !BY_CLIENT == 0 || what & (RECORD | BY_CLIENT) == BY_CLIENT {
        let expected = "a record, perhaps of a client, or versions that are over";
        return Err(WireError::Field { field: "what follows", found: what.into(), expected });
    }
    let mut version = |bit, field| {
        let is_there = what & bit != 0;
        is_there.then(|| reader.u64(field).map(Version::from_bits)).transpose()
    };
    let over =
        Tombstone { signed: version(SIGNED_OVER, "signed version")?, plain: version(PLAIN_OVER, "plain version")? };
    let tombstone = (!over.is_empty()).then_some(over);
    if what & RECORD == 0 {
        reader.finish()?;
        return Ok(PersistedKey { key, record: None, tombstone });
    }
    let saved = WallTime::from_millis(reader.u64("saved")?);
    let source = if what & BY_CLIENT == 0 { Source::Peer } else { Source::Client };
    let block = RecordBlock::read_whole(&mut reader)?;
    if block.key != key {
        let found = block.key.as_bytes()[0].into();
        return Err(WireError::Field { field: "key", found, expected: "the key that it is kept under" });
    }
    let record = block.to_record().map(|record| PersistedRecord { record, age: block.age, saved, source });
    Ok(PersistedKey { key, record, tombstone })
}

/// Writes contacts to `out`, which is emptied first.
pub(super) fn write_contacts(contacts: &[Contact], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&[0; CRC_SIZE]);
    for contact in contacts {
        contact.write(out);
    }
    seal(&[], out);
}

/// Reads what [`write_contacts`] has written.
///
/// # Errors
///
/// What is wrong with it.
pub(super) fn read_contacts(entry: &[u8]) -> Result<Vec<Contact>, WireError> {
    let mut reader = unseal(&[], entry)?;
    let contacts = reader.rest();
    let left = contacts.len() % CONTACT_SIZE;
    if left != 0 {
        return Err(WireError::Trailing { left });
    }
    contacts.chunks_exact(CONTACT_SIZE).map(|contact| Contact::read(&mut Reader::new(contact))).collect()
}

/// Puts the check of `key` and of what `entry` holds behind its place into that place.
fn seal(key: &[u8], entry: &mut [u8]) {
    let (crc, rest) = entry.split_at_mut(CRC_SIZE);
    crc.copy_from_slice(&crc_of(key, rest).to_be_bytes());
}

/// What follows the check of `entry`, if the check fits.
fn unseal<'a>(key: &[u8], entry: &'a [u8]) -> Result<Reader<'a>, WireError> {
    let mut reader = Reader::new(entry);
    let sent = reader.u32("check")?;
    let computed = crc_of(key, reader.rest());
    if computed != sent {
        return Err(WireError::Crc { sent, computed });
    }
    Ok(Reader::new(&entry[CRC_SIZE..]))
}

fn crc_of(key: &[u8], rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(rest);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::VALUE_SIZE_MAX;
    use crate::record::{Age, Class, Record, Ttl, crc_of as crc_of_value};
    use proptest::prelude::*;

    fn any_persisted() -> impl Strategy<Value = PersistedKey> {
        let class = prop_oneof![Just(Class::Plain), Just(Class::Signed), Just(Class::Hashed)];
        let source = prop_oneof![Just(Source::Client), Just(Source::Peer)];
        let size = prop_oneof![1..300_usize, Just(VALUE_SIZE_MAX)];
        let fields = (class, any::<u64>(), 1..=u16::MAX, 1..=20_u8, any::<u32>(), any::<u64>(), source);
        let record = (fields, size, any::<u8>());
        let over = (proptest::option::of(any::<u64>()), proptest::option::of(any::<u64>()));
        (any::<[u8; 32]>(), proptest::option::of(record), over).prop_map(|(key, record, (signed, plain))| {
            let key = Key::new(key);
            let over = Tombstone { signed: signed.map(Version::from_bits), plain: plain.map(Version::from_bits) };
            let record = record.map(|((class, version, ttl, replication, age, saved, source), size, fill)| {
                let value: Vec<u8> = (0..size).map(|at| fill ^ u8::try_from(at % 251).expect("a byte")).collect();
                let ttl = Ttl::from_secs(ttl).expect("not zero");
                let (version, crc) = (Version::from_bits(version), crc_of_value(&value));
                let record = Record { key, class, version, ttl, replication, crc, value: value.into() };
                PersistedRecord { record, age: Age(age), saved: WallTime::from_millis(saved), source }
            });
            PersistedKey { key, record, tombstone: (!over.is_empty()).then_some(over) }
        })
    }

    fn written(persisted: &PersistedKey) -> Vec<u8> {
        let mut entry = vec![7; 3];
        write_key(persisted, &mut entry);
        entry
    }

    proptest! {
        #[test]
        fn a_key_comes_back_as_it_was_kept(persisted in any_persisted()) {
            let entry = written(&persisted);
            if persisted.record.is_none() && persisted.tombstone.is_none() {
                prop_assert!(entry.is_empty(), "there is nothing to keep");
            } else {
                prop_assert_eq!(read_key(persisted.key, &entry), Ok(persisted));
            }
        }

        #[test]
        fn an_entry_that_was_changed_or_cut_is_refused(
            persisted in any_persisted(),
            at in any::<prop::sample::Index>(),
            bit in 0..8_u8,
        ) {
            let entry = written(&persisted);
            prop_assume!(!entry.is_empty());
            let at = at.index(entry.len());
            prop_assert!(read_key(persisted.key, &entry[..at]).is_err());
            let mut changed = entry.clone();
            changed[at] ^= 1 << bit;
            prop_assert!(read_key(persisted.key, &changed).is_err());
            let mut other = *persisted.key.as_bytes();
            other[at % 32] ^= 1 << bit;
            prop_assert!(read_key(Key::new(other), &entry).is_err(), "it stands under another key");
        }

        /// A layout that no version of this writes, with a check that fits: the fields themselves
        /// are judged too, and never past their end.
        #[test]
        fn no_bytes_behind_a_right_check_make_a_reader_panic(
            key in any::<[u8; 32]>(),
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut entry = [&[0; CRC_SIZE], &rest[..]].concat();
            seal(&key, &mut entry);
            if let Ok(persisted) = read_key(Key::new(key), &entry) {
                prop_assert_eq!(&written(&persisted), &entry);
            }
            seal(&[], &mut entry);
            prop_assert_eq!(read_contacts(&entry).is_ok(), rest.len() % CONTACT_SIZE == 0);
        }
    }

    #[test]
    fn contacts_come_back_and_are_refused_when_changed() {
        let contact = |number: u8, at: &str| {
            Contact::new(crate::id::NodeId::new(Key::new([number; 32])), at.parse().expect("a literal"))
        };
        let contacts = [contact(1, "10.1.2.3:4"), contact(2, "[2001:db8::1]:5")];
        let mut entry = Vec::new();
        write_contacts(&contacts, &mut entry);
        assert_eq!(read_contacts(&entry).as_deref(), Ok(&contacts[..]));
        for at in 0..entry.len() {
            let mut changed = entry.clone();
            changed[at] ^= 1;
            assert!(matches!(read_contacts(&changed), Err(WireError::Crc { .. })), "byte {at}");
        }
    }
}
