//! One call that carries a request as it is: sign, send, and hand on what comes as it comes.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{HeaderName, Request, Response};
use tower::{BoxError, Service, ServiceExt};

use super::client::{Client, Leaving};
use super::patience::Patient;
use super::retry_after::retry_at;
use super::ways::Transport;
use super::{cause, sign, trouble};
use crate::domain::body::{StreamBody, Untrailed, stream};
use crate::domain::end_to_end;
use crate::domain::problem::Problem;
use crate::domain::relay::{Call, Called};

/// What would set state in the browser of somebody who is not the one who asked; never passed on.
const COOKIES: [HeaderName; 2] = [http::header::SET_COOKIE, HeaderName::from_static("set-cookie2")];

impl Service<Call> for Client {
    type Response = Called;
    type Error = Problem;
    type Future = BoxFuture<'static, Result<Called, Problem>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Problem>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let (leaving, troubles) = (self.leave(&call.target.upstream), self.troubles.clone());
        Box::pin(async move {
            let Leaving { began, upstream, way } = leaving?;
            let (to, what) = ((&*upstream, &*call.target.account), (&*call.key.place.path, call.uri.query()));
            let request = sign::request(to, what, call.method, call.headers, call.body)?;
            let answer = send(way, request).await.map_err(|error| cause::before_the_answer(&*error));
            let why = match &answer {
                Ok(response) => trouble::of_status(response.status()),
                Err(failed) => failed.why.clone(),
            };
            if let Some(why) = why {
                troubles.tell(&call.target, &why);
            }
            let mut response = answer.map_err(|failed| failed.problem)?;
            let headers = response.headers_mut();
            end_to_end::strip(headers);
            for name in COOKIES {
                headers.remove(name);
            }
            let retry_at = retry_at(headers);
            // Trailers are fields too, with all that is taken out above; nobody has to hand them on (RFC 9110 §6.5.1).
            let response = response.map(|body| stream(Untrailed(body)));
            Ok(Called { response, began, retry_at })
        })
    }
}

fn send(
    way: Patient<Transport>,
    request: Request<StreamBody>,
) -> BoxFuture<'static, Result<Response<StreamBody>, BoxError>> {
    Box::pin(way.oneshot(request))
}
