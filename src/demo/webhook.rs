//! Webhooks of the simulated Merge: signed as Merge signs, sent whenever a sync has ended, and again if nobody took them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use tokio::time::{interval, sleep, timeout};

use super::merge::Merge;
use super::models::{ModelState, Status};

/// How often the schedules are looked at for syncs that have ended.
const LOOK: Duration = Duration::from_millis(100);

/// How long Merge waits for an answer, and after which pauses it tries again.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// What Merge calls the end of a sync.
pub const SYNC_COMPLETED: &str = "LinkedAccount.sync_completed";

impl Merge {
    /// The webhook that `event` has happened to `account`, signed with `secret`, for whoever takes it at `target`.
    #[track_caller]
    pub fn webhook(&self, account: &str, event: &str, secret: &str, target: &str) -> Request<Full<Bytes>> {
        let known = self.accounts().find(|known| known.name == account);
        let known = known.unwrap_or_else(|| panic!("the simulated Merge has no account {account:?}"));
        let states = self.states(account);
        let entry = |state: &ModelState| {
            let state = serde_json::to_value(state).expect("a state is plain JSON");
            let fields = ["last_sync_finished", "last_sync_result", "data_fresh_as_of", "sync_status_reason"];
            fields.map(|field| (field.to_owned(), state[field].clone())).into_iter().collect::<Map<_, _>>()
        };
        let body = json!({
            "hook": { "id": "1f0e1a3c-5a52-4d0e-9f0c-3d3c6f0a0001", "event": event, "target": target },
            "linked_account": {
                "id": known.id().to_string(),
                "integration": known.integration,
                "integration_slug": known.integration.to_ascii_lowercase(),
                "category": known.category,
                "end_user_origin_id": known.name,
                "status": "COMPLETE",
                "webhook_listener_url": target,
                "is_duplicate": false,
                "account_type": "PRODUCTION",
            },
            "data": {
                "is_initial_sync": states.iter().any(|state| state.is_initial_sync),
                "integration_name": known.integration,
                "sync_status": states.iter().map(|state| (state.model_id.clone(), entry(state).into())).collect::<Map<String, Value>>(),
            },
        });
        let body = serde_json::to_vec(&body).expect("it is plain JSON");
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(&body);
        Request::post(target)
            .header("content-type", "application/json")
            .header("x-merge-webhook-signature", URL_SAFE.encode(mac.finalize().into_bytes()))
            .body(Full::from(body))
            .expect("a URL and base64 are plain ASCII")
    }

    /// Tells the proxy at `proxy` of every sync that ends from now on, for as long as it is polled.
    pub fn send_webhooks(self, proxy: SocketAddr, secret: &str) -> impl Future<Output = ()> + Send + use<> {
        let (target, secret) = (format!("http://{proxy}/webhooks/merge"), secret.to_owned());
        let mut told: HashMap<String, _> = HashMap::new();
        let mut ended = move |merge: &Self| -> Vec<_> {
            let news = merge.accounts().filter(|account| {
                let end = end_of_sync(&merge.states(&account.name));
                end.is_some_and(|end| told.insert(account.name.clone(), end) != Some(end))
            });
            news.map(|account| account.name.clone()).collect()
        };
        ended(&self);
        async move {
            let client = Client::builder(TokioExecutor::new()).build_http();
            let mut looks = interval(LOOK);
            loop {
                looks.tick().await;
                for account in ended(&self) {
                    let webhook = self.webhook(&account, SYNC_COMPLETED, &secret, &target);
                    tokio::spawn(deliver(client.clone(), webhook));
                }
            }
        }
    }
}

/// When the last sync ended; `None` while one is under way.
fn end_of_sync(states: &[ModelState]) -> Option<SystemTime> {
    let is_syncing = states.iter().any(|state| state.status == Status::Syncing);
    states.iter().filter_map(|state| state.last_sync_finished).max().filter(|_| !is_syncing)
}

/// Sends it until it is taken, or refused for good, or the last try is over.
async fn deliver(client: Client<HttpConnector, Full<Bytes>>, webhook: Request<Full<Bytes>>) {
    for pause in PAUSES.into_iter().map(Some).chain([None]) {
        if let Ok(Ok(response)) = timeout(PATIENCE, client.request(webhook.clone())).await
            && !response.status().is_server_error()
        {
            return;
        }
        let Some(pause) = pause else { return };
        sleep(pause).await;
    }
}
