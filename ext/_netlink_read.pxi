# What is read, not written: messages as tuples, dumps, notifications. Part of _netlink.pyx.


cdef tuple thing(enl_object *o):
    """The fields of a message in the order of the face's tuple of its type; `text` fields may hold any byte."""
    cdef int kind = o.type & ~3
    cdef str name = o.name.decode(errors="replace")
    if kind == 16:
        return (o.index, name, o.mac[:o.mac_size], o.mtu, o.link_flags, o.operstate,
                o.link_kind.decode(errors="replace"), o.peer, o.peer_nsid, o.group)
    if kind == 20:
        return (o.family, o.index, o.dst[:o.dst_size], o.dst_bits, o.scope, o.link_flags)
    if kind == 24:
        return (o.family, o.dst[:o.dst_size], o.dst_bits, o.index, o.gateway[:o.gateway_size], o.src[:o.src_size],
                o.table, o.protocol, o.scope, o.kind, o.priority, o.link_flags)
    if kind == 28:
        return (o.family, o.index, o.dst[:o.dst_size], o.mac[:o.mac_size], o.state, o.link_flags)
    return (o.family, o.priority, o.src[:o.src_size], o.src_bits, o.dst[:o.dst_size], o.dst_bits, o.table,
            o.fwmark, o.fwmask, name, o.protocol, o.kind)


def dump(Socket self not None, uint16_t kind, uint8_t family=0, uint32_t match=0, uint64_t deadline_ns=0):
    cdef uint8_t[::1] buffer = bytearray(32768)
    cdef enl_object o
    cdef uint32_t place, seq = self.c.seq
    cdef int64_t got = enl_dump(&self.c, kind + 2, family, match)
    cdef int more
    cdef list found = []
    interrupted = False
    while got >= 0:
        with nogil:
            got = enl_receive(&self.c, &buffer[0], 32768, True, deadline_ns)
        place = more = 0
        while got > 0 and (more := enl_next(&buffer[0], <uint32_t> got, &place, &o)) > 0:
            if o.seq == seq:
                interrupted = interrupted or bool(o.flags & 0x10)
                if o.type == 2 or o.type == 3:
                    if o.error:
                        raise KernelError(0, "dump", -o.error, "")
                    return found, interrupted
                if o.type == kind:
                    found.append(thing(&o))
        got = more if more < 0 else got
    raise KernelError(-1, "dump", -got, "")


cdef class Monitor(Socket):
    def watch(self, set own, bint deletions_only):
        self.own, self.deletions_only = own, deletions_only

    def drain(self):
        cdef uint8_t buffer[16384]
        cdef enl_object o
        cdef uint32_t place
        cdef int more
        cdef list events = []
        while got := enl_receive(&self.c, buffer, sizeof(buffer), False, 0):
            if got < 0 and got != -105 and got != -74:  # ENOBUFS: some were dropped; EBADMSG: one is too large
                raise NetlinkError("the monitor's socket failed", -got)
            place, more = 0, <int> got if got < 0 else 0
            while got > 0 and (more := enl_next(buffer, <uint32_t> got, &place, &o)) > 0:
                if 16 <= o.type < 36 and (o.type & 1 or not self.deletions_only) and o.port not in self.own:
                    events.append((o.type, thing(&o)))
            if more < 0:
                events.append((0, ()))
        return events
