//! The built-in renderer as a provider. It is no AI model.

use super::{Ask, CallError, Drawn};
use crate::render::render;

pub struct Renderer;

impl Renderer {
    /// Draws on a thread of its own: it computes for a good part of a second.
    ///
    /// # Errors
    /// The thread was lost.
    pub async fn draw(&self, ask: Ask<'_>) -> Result<Drawn, CallError> {
        let (prompt, style, size) = (ask.prompt.to_owned(), ask.wish.style.clone(), ask.wish.size());
        let drawn = tokio::task::spawn_blocking(move || render(&prompt, &style, size)).await;
        let bytes = drawn.map_err(|_| CallError::again("the renderer was lost"))?;
        Ok(Drawn { bytes, stand_in: false })
    }
}
