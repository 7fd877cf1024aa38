"""Enqueue events in every way BullMQ for Python offers. Usage: producer.py VALKEY_URL QUEUE ENDPOINT_URL SECRET"""
import asyncio
import sys

from bullmq import FlowProducer, Queue

valkey_url, queue_name, endpoint_url, secret = sys.argv[1:]


def event(way: str) -> dict:
    return {
        "userId": "usr_python",
        "endpoint": {"url": endpoint_url, "secret": secret},
        "data": {"way": way, "fileId": 9007199254740993, "price": 1.10},
    }


async def main() -> None:
    connection = {"connection": valkey_url}
    queue = Queue(queue_name, connection)
    await queue.add("file.created", event("add"))
    bulk = [{"name": "file.created", "data": event(f"bulk-{i}"), "opts": {}} for i in range(3)]
    await queue.addBulk(bulk)
    await queue.add("file.created", event("priority"), {"priority": 7})
    await queue.add("file.created", event("delay"), {"delay": 300})
    retried = {"attempts": 2, "backoff": {"type": "fixed", "delay": 100}}
    await queue.add("file.created", event("retry"), retried)
    # The endpoint is registered: by its id, or all that the user has.
    registered = {"userId": "usr_python", "data": event("registered")["data"]}
    await queue.add("file.created", {**registered, "endpoint": {"id": "main"}})
    await queue.add("file.created", {"userId": "usr_python", "data": event("all")["data"]})
    flows = FlowProducer(valkey_url)
    child = {"name": "file.created", "queueName": queue_name, "data": event("flow-child"), "opts": {}}
    parent = {"name": "file.created", "queueName": queue_name, "data": event("flow-parent"), "opts": {}}
    await flows.add({**parent, "children": [child]})
    await flows.close()
    await queue.close()


asyncio.run(main())
