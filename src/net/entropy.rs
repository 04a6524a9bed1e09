//! The operating system's randomness, for the seed of a node.
//!
//! A node derives all its randomness from one seed, so this module is called only at the start. (TLS
//! reads randomness through `provider`.)

use std::fmt;

use rand::TryRng;
use rand::rngs::SysRng;

/// 32 unpredictable bytes.
///
/// # Errors
///
/// [`EntropyError`] if the system has no randomness.
pub fn seed() -> Result<[u8; 32], EntropyError> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|source| EntropyError { source })?;
    Ok(bytes)
}

/// The operating system has no randomness.
#[derive(Debug)]
pub struct EntropyError {
    source: rand::rngs::SysError,
}

impl fmt::Display for EntropyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the system gave no randomness: {}", self.source)
    }
}

impl std::error::Error for EntropyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_seeds_differ() {
        assert_ne!(seed().expect("this system has randomness"), seed().expect("this system has randomness"));
    }
}
