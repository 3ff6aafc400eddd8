"""sslyze on the edge: only TLS 1.2 and 1.3, only ciphers with forward secrecy, a certificate that its CA vouches for,
none of the known holes."""

from pathlib import Path
from urllib.parse import urlsplit

from sslyze import (
    CertificateInfoExtraArgument,
    ScanCommandsExtraArguments,
    Scanner,
    ServerNetworkLocation,
    ServerScanRequest,
)

from judge import done, expect, need

url, ca = need("PUBLIC_URL", "SSL_CERT_FILE")
place = urlsplit(url)
scanner = Scanner()
scanner.queue_scans(
    [
        ServerScanRequest(
            server_location=ServerNetworkLocation(hostname=place.hostname, port=place.port or 443),
            scan_commands_extra_arguments=ScanCommandsExtraArguments(
                certificate_info=CertificateInfoExtraArgument(custom_ca_file=Path(ca))
            ),
        )
    ]
)
answer = next(iter(scanner.get_results()))
expect(answer.scan_result is not None, f"could not connect: {answer.connectivity_error_trace and str(answer.connectivity_error_trace.exc_type)}")
scan = answer.scan_result


def result(name):
    attempt = getattr(scan, name)
    expect(attempt.result is not None, f"{name} could not be looked at: {attempt.error_reason}")
    return attempt.result


for name in ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"]:
    expect(not result(f"{name}_cipher_suites").accepted_cipher_suites, f"{name} is accepted")
modern = [c.cipher_suite for n in ["tls_1_2", "tls_1_3"] for c in result(f"{n}_cipher_suites").accepted_cipher_suites]
expect(modern, "neither TLS 1.2 nor 1.3 is accepted")
weak = [c.name for c in modern if not (c.name.startswith("TLS_AES") or c.name.startswith("TLS_CHACHA20") or "_ECDHE_" in c.name)]
weak += [c.name for c in modern if c.is_anonymous or c.key_size < 128 or "_CBC_" in c.name]
expect(not weak, f"weak: {', '.join(weak)}")
expect(not result("heartbleed").is_vulnerable_to_heartbleed, "Heartbleed")
expect(not result("openssl_ccs_injection").is_vulnerable_to_ccs_injection, "CCS injection")
expect(result("robot").robot_result.name.startswith("NOT_VULNERABLE"), "ROBOT")
expect(not result("tls_compression").supports_compression, "TLS compression is on")
expect(not result("session_renegotiation").is_vulnerable_to_client_renegotiation_dos, "renegotiation by the client")

deployments = result("certificate_info").certificate_deployments
trusted = [
    any(p.was_validation_successful and p.trust_store.path == Path(ca) for p in d.path_validation_results)
    for d in deployments
]
expect(all(trusted), "the certificate does not lead to the CA or is not for this host")
done(f"TLS 1.2 and 1.3 only, {len(modern)} cipher suites with forward secrecy, no known hole, certificate verified")
