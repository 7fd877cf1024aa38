//! Verify webhooks with the official Standard Webhooks library. SECRET is the secret; RAW=1 uses its bytes as the key.
use std::env;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

use http::{HeaderMap, HeaderName, HeaderValue};
use standardwebhooks::{Webhook, WebhookError};

fn open(secret: String) -> Result<Webhook, WebhookError> {
    if env::var("RAW").as_deref() == Ok("1") {
        Webhook::from_bytes(secret.into_bytes())
    } else {
        Webhook::new(&secret)
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?; // the request line
    let mut headers = HeaderMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(
            HeaderName::from_bytes(name.as_bytes()).expect("a header name"),
            HeaderValue::from_str(value).expect("a header value"),
        );
    }
    let length = headers["content-length"].to_str().expect("text").parse().expect("a number");
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let verified = open(env::var("SECRET").expect("SECRET")).and_then(|webhook| webhook.verify(&body, &headers));
    let answer = match verified {
        Ok(()) => "HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n".to_string(),
        Err(error) => {
            let text = error.to_string();
            let length = text.len();
            format!("HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{text}")
        }
    };
    stream.write_all(answer.as_bytes())
}

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("listening {}", listener.local_addr()?.port());
    for stream in listener.incoming() {
        serve(stream?)?;
    }
    Ok(())
}
