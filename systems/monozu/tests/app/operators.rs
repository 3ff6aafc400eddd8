//! Operators at Management, and staff at Cloud.

use std::collections::BTreeMap;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use crate::common::{Answer, Yard};

/// Keeps cookies as a browser does.
#[derive(Default)]
struct Browser(BTreeMap<String, String>);

impl Browser {
    fn keep(&mut self, headers: &HeaderMap) {
        for cookie in headers.get_all("set-cookie") {
            let (name, rest) = cookie.to_str().unwrap().split_once('=').unwrap();
            self.0.insert(name.to_owned(), rest.split(';').next().unwrap().to_owned());
        }
    }

    async fn send(&mut self, yard: &Yard, method: &str, url: &str, form: &str) -> Answer {
        let cookies: Vec<String> = self.0.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let cookies = cookies.join("; ");
        let headers = [("cookie", cookies.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        let answer = yard.send(method, url, &headers, form.to_owned()).await;
        self.keep(&answer.headers);
        answer
    }

    async fn sign_in(&mut self, yard: &Yard, base: &str, person: &str) -> Answer {
        let start = self.send(yard, "GET", &format!("{base}/sign-in"), "").await;
        let there = format!("{}&person={person}", start.headers["location"].to_str().unwrap());
        let back = yard.send("GET", &there, &[], "").await;
        self.send(yard, "GET", back.headers["location"].to_str().unwrap(), "").await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_lets_a_tenant_in_on_the_page() {
    let yard = Yard::start().await;
    let id = yard.register("acme").await.said("tenant_id");
    let base = format!("{}/manage", yard.manage);
    let mut olga = Browser::default();
    assert_eq!(olga.sign_in(&yard, &base, "olga").await.status, StatusCode::SEE_OTHER);
    let page = loop {
        let page = olga.send(&yard, "GET", &format!("{base}/"), "").await;
        assert_eq!(page.status, StatusCode::OK, "{}", page.text);
        if page.text.contains("acme Ltd") {
            break page;
        }
    };
    let csrf = page.text.split("name=\"_csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let url = format!("{base}/tenants/{id}/licence");
    let form = "status=active&plan=gold&days=30&features=edge, beta";
    let foreign = olga.send(&yard, "POST", &url, &format!("_csrf=x&{form}")).await;
    assert_eq!(foreign.status, StatusCode::FORBIDDEN);
    let done = olga.send(&yard, "POST", &url, &format!("_csrf={csrf}&{form}")).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text);
    let token = yard.login("acme").await.said("access_token");
    let features = yard.call(&token, "GET", "/api/v1/me/features", &Value::Null).await.json();
    assert_eq!((features["plan"].clone(), features["features"].clone()), (json!("gold"), json!(["edge", "beta"])));
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_of_another_directory_or_no_operator_is_kept_out() {
    let yard = Yard::start().await;
    let base = format!("{}/manage", yard.manage);
    let nobody = Browser::default().sign_in(&yard, &base, "nobody").await;
    assert_eq!((nobody.status, nobody.said("error").as_str()), (StatusCode::FORBIDDEN, "not_an_operator"));
    for other in [json!({ "tid": "another-directory" }), json!({ "tid": null })] {
        yard.issuer.twist(other);
        let refused = Browser::default().sign_in(&yard, &base, "olga").await;
        assert_eq!((refused.status, refused.said("error").as_str()), (StatusCode::FORBIDDEN, "other_directory"));
        let bearer = format!("Bearer {}", yard.issuer.id_token("olga", "n"));
        let url = format!("{base}/api/v1/tenants");
        assert_eq!(yard.send("GET", &url, &[("authorization", &bearer)], "").await.status, StatusCode::FORBIDDEN);
    }
    yard.issuer.twist(json!({ "tid": "our-directory" }));
    let mut olga = Browser::default();
    olga.sign_in(&yard, &yard.cloud, "olga").await;
    let status = olga.send(&yard, "GET", &format!("{}/status", yard.cloud), "").await;
    assert_eq!(status.status, StatusCode::OK, "{}", status.text);
    assert_eq!(
        Browser::default().send(&yard, "GET", &format!("{}/status", yard.cloud), "").await.status,
        StatusCode::UNAUTHORIZED
    );
}
