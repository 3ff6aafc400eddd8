"""Looks at the parts from inside a service, with nothing but what its environment says. Prints one line an answer."""
import os, socket, ssl, sys, urllib.parse, urllib.request


def stream(url, tls):
    at = urllib.parse.urlparse(url)
    plain = socket.create_connection((at.hostname, at.port), 5)
    return ssl.create_default_context().wrap_socket(plain, server_hostname=at.hostname) if tls else plain


def line(url, tls):
    with stream(url, tls) as conversation:
        conversation.sendall(b"hello\n")
        return conversation.makefile().readline().strip()


def redis(*commands, sign_in=True, tls=True):
    at = urllib.parse.urlparse(os.environ["REDIS"])
    if sign_in:
        commands = (f"AUTH {at.username} {at.password}", *commands)
    with stream(os.environ["REDIS"], tls) as conversation:
        answers = conversation.makefile("rb")
        for command in commands:
            conversation.sendall(command.encode() + b"\r\n")
            said = answers.readline().decode().strip()
            if said.startswith("$") and said != "$-1":
                said = answers.read(int(said[1:]) + 2).decode().strip()
        return said


what = sys.argv[1]
if what == "http":
    print(urllib.request.urlopen(os.environ["PROVIDER"] + "/images", timeout=5).read().decode())
elif what == "mail":
    print(line(os.environ["MAILER"], True))
elif what == "feed":
    print(line(os.environ["FEED"], False))
elif what == "redis":
    print(redis(*sys.argv[2:]))
elif what == "stranger":
    print(redis("PING", sign_in=False))
elif what == "plain":
    try:
        print(redis("PING", sign_in=False, tls=False) or "closed")
    except OSError:
        print("closed")
