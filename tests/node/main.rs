//! The pure node against scripted, hostile and precisely timed counterparts.
//!
//! Each test drives [`dht::node::Node`] through its public verbs, with time made by hand, and
//! reads what it wants done. A [`stage::Stage`] has one node and peers that say what the test
//! lets them say; a [`company::Company`] has several real nodes, back to back. Worlds of many
//! nodes, loss and churn are the simulator's.
//!
//! Sections cited are those of `PROTOCOL.md`, unless a paper is named.

mod asking;
mod bystanders;
mod company;
mod durable;
mod getting;
mod holding;
mod joining;
mod keeping;
mod leaving;
mod meeting;
mod owned;
mod pacing;
mod putting;
mod reading;
mod settling;
mod spreading;
mod stage;
mod storing;
mod surviving;
mod turns;
mod twice;
