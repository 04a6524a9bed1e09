//! The operating system's randomness, of which a node is made.
//!
//! A node draws everything from the one seed it is given, so this is asked a few times at start
//! and never again. (TLS draws its own, by `provider`.)

use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;

/// 32 bytes that nobody can guess.
///
/// # Errors
///
/// [`EntropyError`] if the system has none to give; nothing can be started without.
pub fn seed() -> Result<[u8; 32], EntropyError> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|source| EntropyError { source })?;
    Ok(bytes)
}

/// The operating system gave no randomness.
#[derive(Debug)]
pub struct EntropyError {
    source: rand::rngs::SysError,
}

impl fmt::Display for EntropyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system gave no randomness: {}", self.source)
    }
}

impl std::error::Error for EntropyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_seeds_are_alike() {
        assert_ne!(seed().expect("this system has randomness"), seed().expect("this system has randomness"));
    }
}
