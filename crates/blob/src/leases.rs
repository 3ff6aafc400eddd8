//! Lease Blob and Lease Container.

use axum::{http::StatusCode, response::Response};

use crate::{
    act::Request,
    answers, blobs,
    conditions::Conditions,
    fields::Query,
    lease::{Ask, Done},
    refusal::Refusal,
    rows,
};

pub async fn of_blob(request: &Request<'_>) -> Result<Response, Refusal> {
    let (container, name) = (request.container(), request.blob());
    let (ask, event, conditions) = (Ask::read(request.headers)?, request.event(), request.conditions()?);
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let mut blob = blobs::find(change.db, &container, &name, &Query::default())?;
            conditions.check_change(Some(&blob.facts))?;
            let done = blob.facts.lease.ask(&ask, uuid::Uuid::new_v4().to_string(), change.now_us)?;
            rows::update(change.db, &blob)?;
            Ok((done, blob.facts.etag, blob.facts.modified_us))
        })
    });
    let (done, etag, modified_us) = done.await?;
    Ok(answer(&done, &etag, modified_us))
}

pub async fn of_container(request: &Request<'_>) -> Result<Response, Refusal> {
    let name = request.container();
    let (ask, event, conditions) = (Ask::read(request.headers)?, request.event(), Conditions::read(request.headers)?);
    let done = request.store.blocking(move |store| {
        store.change(Some(event), |change| {
            let mut facts = change.container(&name)?;
            conditions.check_read(&facts.etag, facts.modified_us).map_err(|_| Refusal::condition())?;
            let done = facts.lease.ask(&ask, uuid::Uuid::new_v4().to_string(), change.now_us)?;
            rows::set_container(change.db, &name, &facts)?;
            Ok((done, facts.etag, facts.modified_us))
        })
    });
    let (done, etag, modified_us) = done.await?;
    Ok(answer(&done, &etag, modified_us))
}

fn answer(done: &Done, etag: &str, modified_us: i64) -> Response {
    let mut response = answers::empty(StatusCode::from_u16(done.status).unwrap_or(StatusCode::OK));
    let headers = response.headers_mut();
    answers::state(headers, etag, modified_us);
    if let Some(id) = &done.id {
        answers::set(headers, "x-ms-lease-id", id);
    }
    if let Some(left) = done.left_seconds {
        answers::set(headers, "x-ms-lease-time", &left.to_string());
    }
    response
}
