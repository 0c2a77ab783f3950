"""Stand-in for gcr.io/knative-samples/helloworld-go, the first sample of Knative's documentation.

It answers "Hello $TARGET!" on $PORT, as the sample does; it is Python because the sample's sources are no Go module.
Sockets instead of http.server: a service that was scaled to zero is started while its first request waits.
"""

import os
import signal
import socket
import threading

BODY = f"Hello {os.environ.get('TARGET') or 'World'}!\n".encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n" % len(BODY)


def serve(connection):
    """Answer the requests of one connection until its client closes it; a request's body is read and dropped."""
    with connection, connection.makefile("rb") as stream:
        while line := stream.readline(65536):
            length, close = 0, line.rstrip().endswith(b"HTTP/1.0")
            while (header := stream.readline(65536)) not in (b"\r\n", b"\n", b""):
                name, _colon, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                elif name.lower() == b"transfer-encoding" or name.lower() == b"connection" and value.strip().lower() == b"close":
                    close = True  # the chunks of a body are not read, so that nothing after them can be
            if length:
                stream.read(length)
            connection.sendall(HEAD + (b"Connection: close\r\n\r\n" if close else b"\r\n") + (b"" if line.startswith(b"HEAD ") else BODY))
            if close:
                return


def attend(connection):
    """Serve a connection; one that its client drops, or that speaks no HTTP, ends quietly."""
    try:
        serve(connection)
    except (OSError, ValueError):
        connection.close()


def main():
    """Serve until SIGTERM."""
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    listener = socket.create_server(("", int(os.environ.get("PORT") or 8080)), backlog=512)

    def accept():
        while True:
            threading.Thread(target=attend, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    signal.sigwait(ends)


if __name__ == "__main__":
    main()
