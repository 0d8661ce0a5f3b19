//! What an operator is told about a reload.

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::routes;
use crate::config::changes::Changes;
use crate::config::fault::{Fault, Faults};
use crate::domain::body::ReplyBody;

/// 200 with what has changed, or 422 with every fault.
pub(super) fn reply(result: &Result<Changes, Faults>) -> Response<ReplyBody> {
    match result {
        Ok(Changes { changed, needs_restart, warnings }) => {
            let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            let body = json!({ "changed": changed, "needs_restart": needs_restart, "warnings": warnings });
            routes::reply(StatusCode::OK, &body)
        }
        Err(faults) => {
            let body = json!({
                "type": "urn:merge-sync-proxy:error:invalid-configuration",
                "title": "The configuration is not valid",
                "status": StatusCode::UNPROCESSABLE_ENTITY.as_u16(),
                "detail": "Nothing was changed. Mend what `faults` names, then reload again.",
                "faults": faults.iter().map(fault).collect::<Vec<_>>(),
            });
            let mut refused = routes::reply(StatusCode::UNPROCESSABLE_ENTITY, &body);
            refused.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            refused
        }
    }
}

fn fault(fault: &Fault) -> Value {
    json!({
        "file": fault.origin.display().to_string(),
        "line": fault.position.map(|(line, _)| line),
        "column": fault.position.map(|(_, column)| column),
        "key": fault.key,
        "written": fault.written,
        "message": fault.message,
        "text": fault.to_string(),
    })
}
