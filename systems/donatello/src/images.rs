//! Where images lie: in a blob store by the workload's identity, else in the database. Names are hashes of the bytes, so an
//! image never changes and may be put twice.

use bytes::Bytes;
use sdk::{
    Settings, SettingsError, Trust, TrustError,
    blob::{Account, BlobError, Container, Put},
    database::{Database, Error, Queries},
};

use crate::image;

/// The container of generated images.
const CONTAINER: &str = "images";
/// What browsers and caches may do with an image: its address never means another.
pub const CACHE: &str = "private, max-age=2592000, immutable";

#[derive(Debug, thiserror::Error)]
pub enum ImagesError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("the blob store's certificate authority is unusable")]
    Trust(#[from] TrustError),
    #[error("the blob store failed")]
    Blob(#[from] BlobError),
    #[error("the database failed")]
    Database(#[from] Error),
    #[error("the stored image {0} is not what its name says")]
    Altered(String),
}

#[derive(Clone)]
pub enum Images {
    Blob(Box<Container>),
    Table(Database),
}

impl Images {
    /// The store at `IMAGES_URL`, else the table `images`.
    ///
    /// # Errors
    /// `IMAGES_URL` is set and cannot be used.
    pub fn from_settings(settings: &Settings, database: &Database) -> Result<Images, ImagesError> {
        if settings.optional("IMAGES_URL")?.is_none() {
            return Ok(Images::Table(database.clone()));
        }
        let account = Account::from_settings(settings, &Trust::from_settings(settings, &[])?, "IMAGES_URL")?;
        Ok(Images::Blob(Box::new(account.container(CONTAINER))))
    }

    /// Keeps an image; gives its hash. Repeatable.
    ///
    /// # Errors
    /// The store does not answer or refuses.
    pub async fn put(&self, bytes: Vec<u8>) -> Result<String, ImagesError> {
        let hash = image::hash(&bytes);
        match self {
            Images::Blob(container) => {
                let put = Put {
                    content_type: Some("image/png".into()),
                    cache_control: Some(CACHE.into()),
                    only_new: true,
                    ..Put::default()
                };
                match container.put(&name(&hash), Bytes::from(bytes), &put).await {
                    Err(error) if error.is_there() => {}
                    other => {
                        other?;
                    }
                }
            }
            Images::Table(database) => {
                let insert = "INSERT INTO images (hash, bytes) VALUES ($1, $2) ON CONFLICT DO NOTHING";
                database.get().await?.execute(insert, &[&hash, &bytes]).await?;
            }
        }
        Ok(hash)
    }

    /// An image by its hash; None when there is none. Bytes that do not have the hash are an error, never an image.
    ///
    /// # Errors
    /// The store does not answer, refuses, or holds something else under this name.
    pub async fn get(&self, hash: &str) -> Result<Option<Bytes>, ImagesError> {
        let bytes = match self {
            Images::Blob(container) => match container.get(&name(hash), image::MOST + 4096).await {
                Err(error) if error.is_not_found() => return Ok(None),
                other => other?.1,
            },
            Images::Table(database) => {
                let select = "SELECT bytes FROM images WHERE hash = $1";
                let Some(row) = database.get().await?.first(select, &[&hash]).await? else { return Ok(None) };
                Bytes::from(row.get::<_, Vec<u8>>(0))
            }
        };
        if image::hash(&bytes) != hash {
            return Err(ImagesError::Altered(hash.to_owned()));
        }
        Ok(Some(bytes))
    }
}

fn name(hash: &str) -> String {
    format!("{hash}.png")
}
