use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use http::HeaderMap;
use tidegate_test_broker::free_port;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const LIMIT: Duration = Duration::from_secs(5);

async fn serve(router: Router) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

fn http(port: u16, path: &str) -> Check {
    Check::Http { tls: false, port, path: path.into(), headers: vec![("X-Who".into(), "probe".into())] }
}

#[tokio::test]
async fn a_status_from_200_to_399_is_success() {
    let answer = |status: u16| get(move || async move { StatusCode::from_u16(status).unwrap() });
    let who = get(|headers: HeaderMap| async move {
        if headers.get("x-who").is_some_and(|who| who == "probe") { StatusCode::OK } else { StatusCode::BAD_REQUEST }
    });
    let mut router = Router::new().route("/who", who);
    for status in [200, 204, 302, 399, 404, 503] {
        router = router.route(&format!("/{status}"), answer(status));
    }
    let (port, _server) = serve(router).await;
    assert_eq!(ask(&http(port, "/who"), LIMIT).await, Ok(()), "its headers are sent");
    for status in [200, 204, 302, 399] {
        assert_eq!(ask(&http(port, &format!("/{status}")), LIMIT).await, Ok(()), "{status}");
    }
    for status in [404, 503] {
        let problem = ask(&http(port, &format!("/{status}")), LIMIT).await.unwrap_err();
        assert_eq!(problem, format!("GET http://127.0.0.1:{port}/{status} answers {status}"));
    }
    assert_eq!(ask(&Check::Tcp { port }, LIMIT).await, Ok(()));
}

/// As by the kubelet: what a redirect inside the pod leads to decides, and one that leads elsewhere is success.
#[tokio::test]
async fn redirects_inside_the_pod_are_followed() {
    let to = |location: &'static str| get(move || async move { (StatusCode::FOUND, [("location", location)]) });
    let router = Router::new()
        .route("/ready", to("/ready/"))
        .route("/ready/", get(|| async { StatusCode::SERVICE_UNAVAILABLE }))
        .route("/moved", to("/here"))
        .route("/here", get(|| async { StatusCode::OK }))
        .route("/away", to("https://login.example.com/"))
        .route("/round", to("/round"));
    let (port, _server) = serve(router).await;
    for (path, expected) in [
        ("/ready", Err(format!("GET http://127.0.0.1:{port}/ready answers 503"))),
        ("/moved", Ok(())),
        ("/away", Ok(())),
        ("/round", Err(format!("GET http://127.0.0.1:{port}/round: it is redirected more than 10 times"))),
    ] {
        assert_eq!(ask(&http(port, path), LIMIT).await, expected, "{path}");
    }
}

/// Whatever a program answers, a probe takes neither long nor much memory, and its connection ends.
#[tokio::test]
async fn answers_without_an_end_are_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let mut written = Vec::new();
        for status in ["200 OK", "503 Unavailable"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 1000000000\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let mut bytes = 0;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {
                bytes += 4096;
            }
            written.push(bytes);
        }
        written
    });
    assert_eq!(ask(&http(port, "/"), LIMIT).await, Ok(()));
    assert!(ask(&http(port, "/"), LIMIT).await.unwrap_err().ends_with("answers 503"));
    let written = tokio::time::timeout(LIMIT, server).await.expect("both connections end").unwrap();
    assert!(written.iter().all(|bytes| *bytes < 16 << 20), "{written:?}");
}

#[tokio::test]
async fn what_does_not_answer_or_is_no_http_is_not_ready() {
    let port = free_port();
    let silent = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let problem = ask(&http(port, "/"), Duration::from_millis(200)).await.unwrap_err();
    assert!(problem.ends_with("has no answer within 200ms"), "{problem}");
    drop(silent);
    for check in [http(port, "/"), Check::Tcp { port }, Check::Grpc { port, service: String::new() }] {
        let problem = ask(&check, LIMIT).await.unwrap_err();
        assert!(problem.contains("nothing listens on 127.0.0.1"), "{problem}");
    }
    let (port, _server) = serve(Router::new()).await;
    let tls = Check::Http { tls: true, port, path: "/".into(), headers: Vec::new() };
    assert!(ask(&tls, LIMIT).await.is_err(), "plain HTTP is no TLS");
    let header = vec![("no name".to_owned(), String::new())];
    let problem = ask(&Check::Http { tls: false, port, path: "/".into(), headers: header }, LIMIT).await;
    assert!(problem.unwrap_err().contains("httpHeaders"));
    assert!(ask(&http(port, "no path"), LIMIT).await.is_err());
}

/// A health service that knows two services.
async fn health(body: Bytes) -> Response {
    let answer = |status: u8| Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
    let (code, message) = match &body[..] {
        [0, 0, 0, 0, 0] => ("0", answer(1)),
        [0, 0, 0, 0, 6, 0x0A, 4, b's', b'l', b'o', b'w'] => ("0", answer(2)),
        _ => ("5", Bytes::new()),
    };
    ([("content-type", "application/grpc"), ("grpc-status", code)], message).into_response()
}

#[tokio::test]
async fn a_health_service_of_grpc_is_asked() {
    let (port, _server) = serve(Router::new().route("/grpc.health.v1.Health/Check", axum::routing::post(health))).await;
    let grpc = |service: &str| Check::Grpc { port, service: service.into() };
    assert_eq!(ask(&grpc(""), LIMIT).await, Ok(()));
    for (service, expected) in [("slow", "it is not serving"), ("unknown", "the status is 5")] {
        let problem = ask(&grpc(service), LIMIT).await.unwrap_err();
        assert!(problem.contains(service) && problem.ends_with(expected), "{problem}");
    }
}
