//! `bise serve`: a static file server for the built site, for this machine only.

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::serve::ListenerExt;
use tower_http::services::ServeDir;

/// Bytes read from a file at a time: weights are large.
const SEND_BYTES: usize = 1 << 20;

/// What `bise serve` accepts.
#[derive(clap::Args)]
pub struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 8000)]
    port: u16,
    /// Folder to serve: what `./build.sh site` wrote.
    #[arg(long, default_value = "./target/site")]
    dir: PathBuf,
}

/// Why the site cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The folder is not there, or is no site.
    #[error("no index.html in {}: run ./build.sh site, or name a built site with --dir", .0.display())]
    NoSite(PathBuf),
    /// Another program listens there.
    #[error("port {0} is in use: choose another one with --port")]
    PortInUse(u16),
    /// Any other failure of the network or the runtime.
    #[error("cannot serve on port {port}")]
    Io {
        /// The port asked for.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
}

/// Serves until the process is ended, or reports why it cannot.
pub fn run(args: &Args) -> Result<(), ServeError> {
    if !args.dir.join("index.html").is_file() {
        return Err(ServeError::NoSite(args.dir.clone()));
    }
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => ServeError::PortInUse(args.port),
        _ => ServeError::Io { port: args.port, source },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(serve(args)).map_err(failed)
}

async fn serve(args: &Args) -> io::Result<()> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await?;
    let port = listener.local_addr()?.port();
    let mut stdout = io::stdout();
    writeln!(stdout, "bise is served on http://localhost:{port} (Ctrl-C ends it)")?;
    stdout.flush()?;
    let site = Router::new()
        .fallback_service(ServeDir::new(&args.dir).with_buf_chunk_size(SEND_BYTES))
        .layer(from_fn(set_headers));
    // A short answer goes out at once: browsers confirm its head only after 40 ms.
    let listener = listener.tap_io(|connection| {
        let _ = connection.set_nodelay(true);
    });
    axum::serve(listener, site).await
}

/// Says what may be cached, and the type of what the server does not know by its suffix.
async fn set_headers(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if !response.status().is_success() {
        return response;
    }
    let suffix = Path::new(&path).extension().and_then(|suffix| suffix.to_str());
    // Weights do not change under one name; the rest is checked against its ETag at every visit,
    // so that a rebuilt page never meets yesterday's wasm.
    let cache = if suffix == Some("safetensors") { "max-age=3600" } else { "no-cache" };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    if suffix == Some("jinja") {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    response
}
