//! The caches that people use today, set up to do the same job: the account is part of the key, one fetch for all who wait, stale pages
//! while a new one is fetched, and the upstream's key put in.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use super::child::{Server, is_installed, on_cores};
use super::identity::{BOTH, CERTIFICATE, KEY};
use super::wire::Speech;

/// What a peer is asked to be.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) upstream: SocketAddr,
    pub(crate) speech: Speech,
    /// Whether it speaks TLS, with the certificate in `folder`.
    pub(crate) tls: bool,
    pub(crate) workers: usize,
    /// How long a page is fresh, in seconds.
    pub(crate) lifetime: u64,
    pub(crate) cores: Option<&'a str>,
}

/// The names of the peers, in the order of the table.
pub(crate) const PEERS: [&str; 3] = ["nginx", "haproxy", "varnish"];

/// Starts a peer; `None` if it is not installed or does not start.
pub(crate) fn start(peer: &str, setting: &Setting<'_>) -> Option<Server> {
    if peer == "varnish" && setting.tls {
        return None;
    }
    let program = if peer == "varnish" { "varnishd" } else { peer };
    // Debian keeps servers where only the superuser looks.
    let program = [program.to_owned(), format!("/usr/sbin/{program}")]
        .into_iter()
        .find(|program| is_installed(program) || Path::new(program).is_file())?;
    let address = free_address();
    let (text, arguments) = match peer {
        "nginx" => nginx(setting, address),
        "haproxy" => haproxy(setting, address),
        _ => varnish(setting, address),
    };
    let file = setting.folder.join(format!("{peer}.{}.conf", address.port()));
    fs::write(&file, text).ok()?;
    let mut command = on_cores(setting.cores, &program);
    for argument in arguments {
        command.arg(if argument == "CONFIG" { file.display().to_string() } else { argument });
    }
    Server::foreign(command, address)
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("it is bound")
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

fn nginx(setting: &Setting<'_>, address: SocketAddr) -> (String, Vec<String>) {
    let Setting { folder, upstream, workers, lifetime, .. } = setting;
    let (folder, port) = (folder.display(), address.port());
    let http2 = if setting.speech == Speech::Http2 { "http2" } else { "" };
    let (tls, certificate, key) = if setting.tls {
        let [certificate, key] = [("ssl_certificate", CERTIFICATE), ("ssl_certificate_key", KEY)]
            .map(|(name, file)| format!("{name} {folder}/{file};"));
        ("ssl", certificate, key)
    } else {
        Default::default()
    };
    let text = format!(
        "daemon off; user root; worker_processes {workers}; pid {folder}/nginx.{port}.pid; error_log stderr crit;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/nginx.{port}.body;
  proxy_temp_path {folder}/nginx.{port}.proxy;
  fastcgi_temp_path {folder}/nginx.{port}.fastcgi;
  uwsgi_temp_path {folder}/nginx.{port}.uwsgi;
  scgi_temp_path {folder}/nginx.{port}.scgi;
  proxy_cache_path {folder}/nginx.{port}.cache keys_zone=pages:64m inactive=1h max_size=1g;
  upstream merge {{ server {upstream}; keepalive 64; }}
  server {{
    listen {address} backlog=4096 {http2} {tls};
    {certificate} {key}
    location / {{
      proxy_pass http://merge;
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_set_header Authorization \"Bearer test-api-key\";
      proxy_cache pages;
      proxy_cache_key \"$http_x_account_token $uri $args\";
      proxy_cache_valid 200 {lifetime}s;
      proxy_cache_lock on;
      proxy_cache_use_stale updating error timeout http_500 http_502 http_503 http_504 http_429;
      proxy_cache_background_update on;
      add_header Cache-Status $upstream_cache_status;
    }}
  }}
}}
"
    );
    (text, words(&format!("-p {folder} -e stderr -c CONFIG")))
}

fn haproxy(setting: &Setting<'_>, address: SocketAddr) -> (String, Vec<String>) {
    let Setting { upstream, workers, lifetime, .. } = setting;
    let how = match setting.speech {
        Speech::Http2 => "proto h2".to_owned(),
        Speech::Http1 if setting.tls => format!("ssl crt {}", setting.folder.join(BOTH).display()),
        Speech::Http1 => String::new(),
    };
    // Its cache knows the URI alone, so the account goes into the path; and it stores nothing that was asked for with Authorization.
    let text = format!(
        "global
  maxconn 4000
  nbthread {workers}
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
cache pages
  total-max-size 256
  max-object-size 1000000
  max-age {lifetime}
frontend consumers
  bind {address} {how}
  http-request del-header authorization
  http-request set-path /%[req.hdr(x-account-token)]%[path]
  http-request cache-use pages
  http-response cache-store pages
  default_backend merge
backend merge
  http-request replace-path /[^/]+(/.*) \\1
  http-request set-header authorization \"Bearer test-api-key\"
  http-response set-header cache-control max-age={lifetime}
  server merge {upstream}
"
    );
    (text, words("-f CONFIG"))
}

fn varnish(setting: &Setting<'_>, address: SocketAddr) -> (String, Vec<String>) {
    let Setting { folder, upstream, lifetime, .. } = setting;
    let text = format!(
        "vcl 4.1;
backend merge {{ .host = \"{}\"; .port = \"{}\"; }}
sub vcl_recv {{ unset req.http.authorization; return (hash); }}
sub vcl_hash {{ hash_data(req.http.x-account-token); hash_data(req.url); return (lookup); }}
sub vcl_backend_fetch {{ set bereq.http.authorization = \"Bearer test-api-key\"; }}
sub vcl_backend_response {{ set beresp.ttl = {lifetime}s; set beresp.grace = 30s; return (deliver); }}
",
        upstream.ip(),
        upstream.port()
    );
    let work = folder.join(format!("varnish.{}", address.port()));
    (text, words(&format!("-F -a {address} -f CONFIG -n {} -s malloc,512m -p feature=+http2", work.display())))
}
