//! Three servers, at most one of them curious: replicated secret sharing.
//!
//! x = x_0 + x_1 + x_2 in Z/2^k; server i holds (x_i, x_{i+1}) (Araki et al., ePrint 2016/768). Linear layers follow
//! ABY3 and CryptGPU (2018/403, 2021/533) up to the truncation; comparisons are dealer-assisted:
//!
//! For part p of a tensor (its p-th third) server p is the *dealer*, who knows a = x_p + x_{p+1}; servers p+1 and p+2
//! are the first and second *evaluator*, who both know b = x_{p+2}. Every server is dealer of one third and evaluator
//! of the two others, so load and traffic are balanced.
//!
//! Functionality, argument, cost and error of every protocol are in docs/protocols.md; the declared cost is
//! [`Declared`], and a test holds it against measured traffic.

mod agree;
mod compare;
mod cost;
mod engine;
mod guard;
mod keys;
mod layout;
mod panel;
mod piecewise;
mod relu;
mod share;
mod truncate;

pub(crate) use agree::opened;
pub use cost::Declared;
pub(crate) use engine::SERVERS;
pub use engine::{Rep3, opened_form, share_form};
pub(crate) use guard::SOUND;
pub use keys::{Prss, SessionInfo, establish};
pub use share::Shared;
