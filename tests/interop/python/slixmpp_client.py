"""slixmpp against a running server: STARTTLS with certificate checking, SCRAM, chat, the archive, blocking,
and the resumption of a session whose connection was lost.

Prints one line for each check; ends with a non-zero code at the first that fails.
"""

import argparse
import asyncio
import logging
import uuid

import slixmpp

LIMIT = 30


def passed(text):
    print(f"slixmpp: ok: {text}", flush=True)


class Client(slixmpp.ClientXMPP):
    """A client that keeps its events in queues."""

    def __init__(self, jid, password, address, ca):
        super().__init__(jid, password)
        self.address = address
        self.ca_certs = ca
        for plugin in ("xep_0030", "xep_0059", "xep_0191", "xep_0198", "xep_0199", "xep_0313"):
            self.register_plugin(plugin)
        self.started = asyncio.Event()
        self.enabled = asyncio.Event()
        self.resumed = asyncio.Event()
        self.refused = asyncio.Event()
        self.lost = asyncio.Event()
        self.bodies = asyncio.Queue()
        self.errors = asyncio.Queue()
        self.last_to = None
        self.acked = asyncio.Queue()
        self.add_event_handler("session_start", self._start)
        self.add_event_handler("sm_enabled", lambda _: self.enabled.set())
        self.add_event_handler("session_resumed", lambda _: self.resumed.set())
        self.add_event_handler("ssl_invalid_chain", lambda _: self.refused.set())
        self.add_event_handler("connection_failed", lambda _: self.refused.set())
        self.add_event_handler("disconnected", lambda _: self.lost.set())
        self.add_event_handler("stanza_acked", lambda s: self.acked.put_nowait(str(s["body"])))
        self.add_event_handler("message", self._message)
        self.add_event_handler(
            "message_error", lambda m: self.errors.put_nowait(m["error"]["condition"])
        )

    def _start(self, _):
        self.send_presence()
        self.started.set()

    def _message(self, message):
        if message["type"] in ("chat", "normal") and message["body"]:
            self.last_to = message["to"]
            self.bodies.put_nowait(str(message["body"]))

    def open(self):
        self.connect(*self.address)

    async def login(self):
        self.open()
        await asyncio.wait_for(self.started.wait(), LIMIT)
        await asyncio.wait_for(self.enabled.wait(), LIMIT)

    async def next_body(self, wanted):
        got = await asyncio.wait_for(self.bodies.get(), LIMIT)
        assert got == wanted, f"wanted {wanted!r}, got {got!r}"


async def run(options):
    address = (options.host, options.port)
    stranger = Client(options.jid, options.password, address, None)
    stranger.open()
    await asyncio.wait_for(stranger.refused.wait(), LIMIT)
    assert not stranger.started.is_set()
    stranger.abort()
    stranger.cancel_connection_attempt()
    passed("a certificate that is not trusted is refused")

    one = Client(options.jid, options.password, address, options.ca)
    two = Client(options.peer, options.peer_password, address, options.ca)
    await one.login()
    await two.login()
    passed(f"logged in as {one.boundjid} and {two.boundjid} with certificate checking")

    run_id = uuid.uuid4().hex[:8]
    texts = [f"{run_id} {i}" for i in range(5)]
    for text in texts:
        one.send_message(two.boundjid.bare, text, mtype="chat")
    for text in texts:
        await two.next_body(text)
        acked = await asyncio.wait_for(one.acked.get(), LIMIT)
        assert acked == text, f"acknowledged {acked!r} instead of {text!r}"
    assert str(two.last_to) == two.boundjid.bare, f"sent to a bare JID, came to {two.last_to}"
    passed("five messages arrived in order, as they were addressed, and were acknowledged")

    for client, peer in ((one, two), (two, one)):
        page = await client["xep_0313"].retrieve(
            with_jid=slixmpp.JID(peer.boundjid.bare), rsm={"max": 50}, timeout=LIMIT
        )
        found = [str(r["mam_result"]["forwarded"]["stanza"]["body"]) for r in page["mam"]["results"]]
        mine = [text for text in found if text.startswith(run_id)]
        assert mine == texts, f"the archive of {client.boundjid.bare} holds {mine}"
    passed("both archives hold them once, in that order")

    pages = two["xep_0313"].iterate(
        with_jid=slixmpp.JID(one.boundjid.bare), rsm={"max": 2}, reverse=True
    )
    found = [str(m["mam_result"]["forwarded"]["stanza"]["body"]) async for m in pages]
    assert sorted(found) == texts, f"read from the end: {found}"
    passed("the archive read from its end, page by page, holds all of them")

    full = str(two.boundjid)
    two.lost.clear()
    two.abort()
    await asyncio.wait_for(two.lost.wait(), LIMIT)
    away = [f"{run_id} away {i}" for i in range(3)]
    for text in away:
        one.send_message(full, text, mtype="chat")
    two.open()
    await asyncio.wait_for(two.resumed.wait(), LIMIT)
    for text in away:
        await two.next_body(text)
    two.send_message(one.boundjid.bare, f"{run_id} back", mtype="chat")
    await one.next_body(f"{run_id} back")
    await asyncio.sleep(0.5)
    assert two.bodies.empty(), f"delivered twice: {two.bodies.get_nowait()!r}"
    passed("a session whose connection was lost resumed and got its missed messages once")

    one.send_message(two.boundjid.bare, f"{run_id} last", mtype="chat")
    await two.next_body(f"{run_id} last")
    await asyncio.wait_for(two.disconnect(), LIMIT)
    again = Client(options.peer, options.peer_password, address, options.ca)
    await again.login()
    one.send_message(again.boundjid.bare, f"{run_id} again", mtype="chat")
    await again.next_body(f"{run_id} again")
    passed("what was read before the stream was closed does not come again")

    user = slixmpp.JID(one.boundjid.bare)
    blocking = again["xep_0191"]
    await blocking.block(user, timeout=LIMIT)
    blocked = (await blocking.get_blocked(timeout=LIMIT))["blocklist"]["items"]
    blocked = [item["jid"] for item in blocked]
    assert blocked == [user], f"blocked are {blocked}"
    one.send_message(again.boundjid.bare, f"{run_id} unheard", mtype="chat")
    error = await asyncio.wait_for(one.errors.get(), LIMIT)
    assert error == "service-unavailable", f"refused with {error}"
    await blocking.unblock(user, timeout=LIMIT)
    one.send_message(again.boundjid.bare, f"{run_id} heard", mtype="chat")
    await again.next_body(f"{run_id} heard")
    passed("a blocked user is refused, and heard again afterwards")

    for client in (one, again):
        await asyncio.wait_for(client.disconnect(), LIMIT)


def main():
    parser = argparse.ArgumentParser()
    for name in ("host", "ca", "jid", "password", "peer", "peer-password"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    logging.basicConfig(level=logging.CRITICAL)
    asyncio.run(run(parser.parse_args()))


main()
