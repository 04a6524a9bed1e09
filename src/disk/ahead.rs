//! Reads the log of a large store with two threads: one reads and verifies pieces, the other one uses them.

use std::io::ErrorKind;
use std::panic::resume_unwind;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::disk::fault::StoreFault;

/// A log of fewer bytes is read by one thread: to start a second one would take as long as it saves.
const BYTES_MIN: u64 = 1 << 20;

/// Pieces that are read and not used yet, at most. They let one thread go on while the other one is slow for a moment,
/// and take less than two megabytes.
const PIECES_MAX: usize = 8;

/// Runs `read`, which reads a log of `bytes` bytes and passes pieces of it on, and `take` with each of them in their
/// order. If both fail, the fault is that of `take`: it is about an earlier place in the log.
pub(super) fn read_ahead<T: Send>(
    bytes: u64,
    read: impl FnOnce(&mut dyn FnMut(T) -> Result<(), StoreFault>) -> Result<(), StoreFault> + Send,
    mut take: impl FnMut(T) -> Result<(), StoreFault>,
) -> Result<(), StoreFault> {
    if bytes < BYTES_MIN {
        return read(&mut take);
    }
    let (pieces, passed) = sync_channel(PIECES_MAX);
    thread::scope(|scope| {
        let reader = thread::Builder::new().name("read-ahead".to_owned()).spawn_scoped(scope, move || {
            // The other end is closed only if `take` has failed. Then that fault is reported, not this one.
            read(&mut |piece| pieces.send(piece).map_err(|_| ErrorKind::BrokenPipe.into()).map_err(StoreFault::Io))
        })?;
        let taken = passed.into_iter().try_for_each(take); // closes this end
        let read = reader.join().unwrap_or_else(|panic| resume_unwind(panic));
        taken.and(read)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn damaged(offset: u32) -> StoreFault {
        StoreFault::Damaged { file: String::new(), offset }
    }

    /// Reads the pieces 0 to 99, of which `bad` cannot be read, and takes them until `refused` comes. Returns what was
    /// taken, and where the fault is.
    fn taken(bytes: u64, bad: u32, refused: u32) -> (Vec<u32>, Option<u32>) {
        let mut taken = Vec::new();
        let result = read_ahead(
            bytes,
            |pass| (0..100).try_for_each(|piece| if piece == bad { Err(damaged(piece)) } else { pass(piece) }),
            |piece| {
                if piece == refused {
                    return Err(damaged(piece));
                }
                taken.push(piece);
                Ok(())
            },
        );
        let fault = result.err().map(|fault| match fault {
            StoreFault::Damaged { offset, .. } => offset,
            other => panic!("{other:?}"),
        });
        (taken, fault)
    }

    #[test]
    fn pieces_are_taken_in_their_order_up_to_the_first_fault() {
        for bytes in [0, BYTES_MIN] {
            assert_eq!(taken(bytes, 100, 100), ((0..100).collect(), None));
            assert_eq!(taken(bytes, 50, 100), ((0..50).collect(), Some(50)));
            assert_eq!(taken(bytes, 100, 50), ((0..50).collect(), Some(50)));
            assert_eq!(taken(bytes, 50, 45), ((0..45).collect(), Some(45)), "the earlier one");
        }
    }

    #[test]
    fn the_reader_is_a_thread_if_there_is_much_to_read() {
        for (bytes, is_own) in [(BYTES_MIN - 1, false), (BYTES_MIN, true)] {
            let mut reader = None;
            let read = |pass: &mut dyn FnMut(thread::ThreadId) -> Result<(), StoreFault>| pass(thread::current().id());
            let result = read_ahead(bytes, read, |id| {
                reader = Some(id);
                Ok(())
            });
            assert!(result.is_ok());
            assert_eq!(reader.map(|id| id != thread::current().id()), Some(is_own));
        }
    }
}
