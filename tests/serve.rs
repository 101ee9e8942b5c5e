//! `bise serve`, asked over a plain socket: ranges, types, caching, and its errors.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// A server that ends with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(dir: &Path) -> Server {
        let mut child =
            bise().args(["serve", "--port", "0", "--dir"]).arg(dir).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.split_whitespace().find(|word| word.starts_with("http://localhost:")).unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        Server { child, port }
    }

    fn get(&self, path: &str, headers: &str) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n")
            .unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        Reply { head, body: bytes[end + 4..].to_vec() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

struct Reply {
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

fn bise() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bise"))
}

/// A small site in a folder of its own, named after the test.
fn site(test: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(dir.join("models")).unwrap();
    std::fs::write(dir.join("index.html"), "<!doctype html>").unwrap();
    std::fs::write(dir.join("main.js"), "export {};").unwrap();
    std::fs::write(dir.join("bise_bg.wasm"), b"\0asm").unwrap();
    std::fs::write(dir.join("models/config.json"), "{}").unwrap();
    std::fs::write(dir.join("models/chat_template.jinja"), "{{ x }}").unwrap();
    std::fs::write(dir.join("models/model.safetensors"), (0..=255).collect::<Vec<u8>>()).unwrap();
    dir
}

fn fails_with(output: &Output, status: i32, text: &str) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(stderr.starts_with("error: ") && stderr.contains(text), "{stderr}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_range_is_answered_with_just_these_bytes() {
    let server = Server::start(&site("ranges"));
    let path = "/models/model.safetensors";
    let reply = server.get(path, "Range: bytes=16-31\r\n");
    assert_eq!((reply.status(), reply.header("content-range")), (206, "bytes 16-31/256"));
    assert_eq!(reply.body, (16..32).collect::<Vec<u8>>());
    let reply = server.get(path, "Range: bytes=-2\r\n");
    assert_eq!(reply.body, [254, 255]);
    let reply = server.get(path, "");
    assert_eq!((reply.status(), reply.header("accept-ranges"), reply.body.len()), (200, "bytes", 256));
    assert_eq!(server.get(path, "Range: bytes=256-300\r\n").status(), 416);
}

#[test]
fn every_file_has_its_type_and_its_caching() {
    let server = Server::start(&site("types"));
    for (path, mime, cache) in [
        ("/", "text/html", "no-cache"),
        ("/main.js", "text/javascript", "no-cache"),
        ("/bise_bg.wasm", "application/wasm", "no-cache"),
        ("/models/config.json", "application/json", "no-cache"),
        ("/models/chat_template.jinja", "text/plain; charset=utf-8", "no-cache"),
        ("/models/model.safetensors", "application/octet-stream", "max-age=3600"),
    ] {
        let reply = server.get(path, "");
        assert_eq!((reply.status(), reply.header("content-type")), (200, mime), "{path}");
        assert_eq!(reply.header("cache-control"), cache, "{path}");
        let again = server.get(path, &format!("If-None-Match: {}\r\n", reply.header("etag")));
        assert_eq!((again.status(), again.body.len()), (304, 0), "{path}");
    }
}

#[test]
fn nothing_outside_the_site_is_served() {
    let server = Server::start(&site("outside/inner"));
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("outside/secret"), "secret").unwrap();
    for path in ["/../secret", "/%2e%2e/secret", "/models/../../secret", "/missing"] {
        assert_eq!(server.get(path, "").status(), 404, "{path}");
    }
}

#[test]
fn a_taken_port_is_one_clear_line() {
    let dir = site("taken");
    let server = Server::start(&dir);
    let port = server.port.to_string();
    let output = bise().args(["serve", "--port", &port, "--dir"]).arg(&dir).output().unwrap();
    fails_with(&output, 1, &format!("port {port} is in use"));
    assert_eq!(output.stderr.iter().filter(|&&byte| byte == b'\n').count(), 1);
}

#[test]
fn a_folder_without_a_site_is_refused() {
    let output = bise().args(["serve", "--port", "0", "--dir", "no/such/folder"]).output().unwrap();
    fails_with(&output, 1, "no index.html in no/such/folder");
}

#[test]
fn a_wrong_command_line_exits_with_2() {
    fails_with(&bise().args(["serve", "--port", "many"]).output().unwrap(), 2, "--port");
    fails_with(&bise().arg("sevre").output().unwrap(), 2, "sevre");
}
