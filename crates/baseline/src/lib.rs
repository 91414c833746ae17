//! ReLU by two parties as others compute it, so that what is measured stands beside something: garbled circuits, and the protocols of
//! CrypTFlow2 (ePrint 2020/1002) as published, with the transfers of its time. Nothing here is part of the program but its benchmark,
//! and that only where the feature `baseline` asks for it. It is for measuring and not for secrets: names of sessions are fixed, shares stand in
//! indices, and a circuit's hash keeps one key for a piece of some 10^7 gates, which leaves an attacker 2^104 calls of AES in place of 2^128.
//!
//! Shares are as in [`sordino_mpc::two::OneRing`]: x = x_0 + x_1 in Z/N, an element above (N - 1) / 2 is negative. End 0 garbles
//! circuits and offers tables, end 1 evaluates and chooses.

mod bits;
mod end;
pub mod garble;
pub mod paper;

pub use end::{End, Ran, both, parties};
