//! The server; it comes with the event loop.

fn main() {}
