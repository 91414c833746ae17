//! An end of a session, whatever it does there.

use crate::{Protocol, Result, refused};
use sordino_net::Net;
use sordino_ring::Shape;
use zeroize::Zeroizing;

/// A protocol with links to other ends. One session loop serves all of them.
pub trait Party: Protocol {
    /// The transport, for its meter and for what ends tell each other besides the protocol.
    fn net(&self) -> &Net;

    /// This end's shares of wide tensors, for its own disk: secret only to the others.
    ///
    /// # Errors
    /// For a narrow tensor; by default, as a protocol whose ends keep nothing.
    fn export(&self, tensors: &[Self::Arith]) -> Result<Zeroizing<Vec<u8>>> {
        let _ = tensors;
        refused("keeping shares")
    }

    /// Wide tensors of these shapes from what [`Party::export`] gave.
    ///
    /// # Errors
    /// When the bytes are not as many as the shapes need; by default, as a protocol whose ends keep nothing.
    fn import(&self, bytes: &[u8], shapes: &[Shape]) -> Result<Vec<Self::Arith>> {
        let _ = (bytes, shapes);
        refused("kept shares")
    }
}
