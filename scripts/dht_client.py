#!/usr/bin/env python3
"""Puts and gets a value through the VoidPhone module API of a DHT node.

    dht_client.py -s -g                      PUT the default value, then GET it
    dht_client.py -p 7501 -s -k hello -d world --ttl 60
    dht_client.py -p 7509 -g -k hello
    dht_client.py -s -g -c                   repeat after each Enter

This client has the flags, defaults and habits of the client that the course hands out: a server
that works with one works with the other. It has these habits because servers must handle them:

* It reads nothing after a PUT, and takes the next bytes that arrive for the answer to the next
  GET. With -s alone it closes the connection immediately after the PUT.
* With -s -g it sends the GET half a second after the PUT, on the same connection.
* It reads an answer with a single recv(4096). It does not read the rest of an answer that is
  longer or arrives in pieces, but prints that the answer is cut. For values of more than
  4060 bytes use dht-cli.
* It has no timeout: it waits until the node answers or you press Ctrl-C.
* With -c it uses one connection for all repetitions; it opens a new one only after the node has
  closed the old one.
* It supports IPv4 only.

Exit status: 0 PUT sent or value found; 1 not found, no answer, or no connection; 2 wrong usage.
"""

import argparse
import socket
import struct
import sys
import time

DHT_PUT = 650
DHT_GET = 651
DHT_SUCCESS = 652
DHT_FAILURE = 653

HEADER = struct.Struct("!HH")  # size of the whole message, type
PUT_FIELDS = struct.Struct("!HBB")  # TTL in seconds, replication, reserved
KEY_SIZE = 32
VALUE_SIZE_MAX = 65535 - HEADER.size - PUT_FIELDS.size - KEY_SIZE
RECV_SIZE = 4096
PAUSE_AFTER_PUT = 0.5  # seconds


def message(kind, body):
    """A message: the header and `body`."""
    return HEADER.pack(HEADER.size + len(body), kind) + body


def put_message(key, value, ttl, replication):
    """DHT PUT. Its reserved byte is zero: it requests no answer."""
    return message(DHT_PUT, PUT_FIELDS.pack(ttl, replication, 0) + key + value)


def get_message(key):
    """DHT GET."""
    return message(DHT_GET, key)


def describe(answer, key):
    """Interprets `answer`, the bytes of one recv: whether it is the value of `key`, and the text to print."""
    if not answer:
        return False, "no answer: the node closed the connection"
    if len(answer) < HEADER.size + KEY_SIZE:
        return False, f"no answer: {len(answer)} bytes are too short: {answer.hex()}"
    size, kind = HEADER.unpack_from(answer)
    if kind not in (DHT_SUCCESS, DHT_FAILURE):
        return False, f"no answer: a message of type {kind} is neither SUCCESS nor FAILURE"
    if answer[HEADER.size : HEADER.size + KEY_SIZE] != key:
        return False, "no answer: the message is about another key"
    if kind == DHT_FAILURE:
        return False, "FAILURE: the key was not found"
    value = answer[HEADER.size + KEY_SIZE : size]
    line = f"SUCCESS: {value.decode('utf-8', 'backslashreplace')}"
    if len(answer) < size:
        line += f"\n(cut: one recv returned {len(answer)} of the answer's {size} bytes)"
    return True, line


class Client:
    """One connection, opened by the first message and used until the node closes it."""

    def __init__(self, address, port):
        self.server = (address, port)
        self.connection = None

    def send(self, data):
        """Sends `data`; opens a connection first if there is none."""
        if self.connection is None:
            connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            connection.connect(self.server)
            self.connection = connection
        self.connection.sendall(data)

    def receive(self):
        """One recv; empty if the node has closed the connection, which the client then closes too."""
        data = self.connection.recv(RECV_SIZE)
        if not data:
            self.close()
        return data

    def close(self):
        """Closes the connection, if there is one."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def run_round(client, options):
    """Sends a PUT, a GET, or a PUT and then a GET; returns whether all succeeded."""
    if options.set:
        client.send(put_message(options.key, options.data, options.ttl, options.replication))
        print(f"PUT sent: {len(options.data)} bytes, TTL {options.ttl} s, replication {options.replication}")
    if options.set and options.get:
        time.sleep(PAUSE_AFTER_PUT)
    if options.get:
        client.send(get_message(options.key))
        print("GET sent")
        found, line = describe(client.receive(), options.key)
        print(line)
        return found
    return True


def key_bytes(text):
    """The key of `text`: its UTF-8 bytes, padded with zeros."""
    raw = text.encode("utf-8")
    if len(raw) > KEY_SIZE:
        raise argparse.ArgumentTypeError(f"{len(raw)} bytes long, a key has at most {KEY_SIZE}")
    return raw.ljust(KEY_SIZE, b"\0")


def value_bytes(text):
    """The UTF-8 bytes of `text`."""
    raw = text.encode("utf-8")
    if not 1 <= len(raw) <= VALUE_SIZE_MAX:
        raise argparse.ArgumentTypeError(f"{len(raw)} bytes long, a value has 1 to {VALUE_SIZE_MAX}")
    return raw


def number_up_to(largest):
    """A parser of whole numbers from 0 to `largest`."""

    def read(text):
        if not text.isascii() or not text.isdigit() or int(text) > largest:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0 to {largest}")
        return int(text)

    return read


def parse_arguments():
    """Parses the command line; ends the program with status 2 on wrong usage."""
    parser = argparse.ArgumentParser(description="Puts and gets a value through the module API of a DHT node.")
    parser.add_argument("-a", "--address", default="127.0.0.1", help="IPv4 address of the node (%(default)s)")
    parser.add_argument("-p", "--port", type=number_up_to(65535), default=7401, help="its API port (%(default)s)")
    parser.add_argument("-s", "--set", action="store_true", help="send a PUT")
    parser.add_argument("-g", "--get", action="store_true", help="send a GET; with -s, half a second later")
    parser.add_argument(
        "-k", "--key", type=key_bytes, default="lolz" * 8, help="up to 32 bytes, padded with zeros (%(default)s)"
    )
    parser.add_argument("-d", "--data", type=value_bytes, default="bernd", help="the value to PUT (%(default)s)")
    parser.add_argument("-c", "--cont", action="store_true", help="repeat after each Enter, on the same connection")
    parser.add_argument(
        "--ttl", type=number_up_to(65535), default=1, help="lifetime of the value in seconds (%(default)s)"
    )
    parser.add_argument(
        "--replication", type=number_up_to(255), default=1, help="number of replicas of the value (%(default)s)"
    )
    options = parser.parse_args()
    if not options.set and not options.get:
        parser.error("nothing to do: use -s, -g, or both")
    return options


def main():
    """Runs one round, with -c another after each Enter; returns 0 if all rounds succeeded."""
    options = parse_arguments()
    sys.stdout.reconfigure(line_buffering=True)  # shows what was sent before the answer arrives
    client = Client(options.address, options.port)
    status = 0
    try:
        while True:
            try:
                if not run_round(client, options):
                    status = 1
            except OSError as error:
                print(f"{options.address}:{options.port}: {error.strerror or error}", file=sys.stderr)
                status = 1
                client.close()
            if not options.cont:
                return status
            input("Enter: repeat, Ctrl-C: end ")
    except EOFError:
        print()
        return status
    except KeyboardInterrupt:
        print()
        return status if options.cont else 1
    finally:
        client.close()


if __name__ == "__main__":
    sys.exit(main())
