//! The built-in renderer as a provider. It is no AI model.

use super::{Ask, CallError, Drawn};
use crate::render::{in_turn, render};

pub struct Renderer;

impl Renderer {
    /// Draws in turn: it computes for a good part of a second.
    ///
    /// # Errors
    /// The thread was lost.
    pub async fn draw(&self, ask: Ask<'_>) -> Result<Drawn, CallError> {
        let (prompt, style, size) = (ask.prompt.to_owned(), ask.wish.style.clone(), ask.wish.size());
        let drawn = in_turn(move || render(&prompt, &style, size)).await;
        let bytes = drawn.ok_or_else(|| CallError::again("the renderer was lost"))?;
        Ok(Drawn { bytes, stand_in: false })
    }
}
