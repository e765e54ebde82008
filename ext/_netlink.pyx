# The bridge to netlink.c: buffers, errors, and the release of the lock. The face is netlink.py.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ext.netlink_errors import KernelError, NetlinkError, WrongSocket, failure

set_fault = enl_set_fault


cdef class Template:
    def __init__(self, bytes data, bytes patches, bytes messages, tuple names, dict layout, int size):
        self.data, self.patches, self.messages = data, patches, messages
        self.names, self.layout, self.size = names, layout, size
        self.c = enl_template(
            <const uint8_t *> data, <const enl_patch *> <const char *> patches,
            <const enl_message *> <const char *> messages, <uint32_t> len(data),
            <uint32_t> (len(patches) // 6), <uint32_t> (len(messages) // 10), <uint32_t> size)
        if len(names) * 10 != len(messages) or not enl_template_ok(&self.c):
            raise ValueError("the template leads outside its own bounds")


cdef class Shape:
    def __init__(self, Template link not None, Template host not None, Template pod not None,
                 Template undo not None, Template remove not None, bint sysctls):
        self.templates, self.size = (link, host, pod, undo, remove), link.size
        if any(t.layout != link.layout or t.size != link.size for t in self.templates):
            raise ValueError("the templates of a shape have one layout")
        places = [link.layout[name][0] for name in ("host_index", "pod_index", "host_name", "host_mac")]
        self.c = enl_shape(link.c, host.c, pod.c, undo.c, remove.c, places[0], places[1], places[2], places[3], sysctls)


cdef object refused(enl_fail *f, tuple names, str name=""):
    return failure(f.phase, f.index, f.call.decode() if f.call != NULL else "", names, f.error,
                   f.text.decode(errors="replace"), f.undone,
                   (name, f.holder_index, f.holder_mac[:6], bool(f.holder_flags & 1)) if f.taken else None)


cdef const uint8_t *checked(const uint8_t[::1] slots, Py_ssize_t size) except? NULL:
    if slots.shape[0] < size:
        raise ValueError(f"the slots have {slots.shape[0]} bytes; {size} are needed")
    return &slots[0] if slots.shape[0] else NULL


cdef class Socket:
    def __cinit__(self):
        self.c.fd = -1

    def __init__(self, int fd=-1, *, bint check=True, uint32_t groups=0):
        if self.c.fd >= 0:
            raise RuntimeError("the socket is open already")
        cdef int error = enl_open(&self.c, groups) if fd < 0 else enl_adopt(&self.c, fd, check)
        if error and fd >= 0:
            raise WrongSocket(f"descriptor {fd} is no NETLINK_ROUTE socket", -error)
        if error:
            raise NetlinkError("no netlink socket could be opened", -error)

    def __dealloc__(self):
        enl_close(&self.c)

    def close(self):
        enl_close(&self.c)

    def fileno(self):
        return self.c.fd

    @property
    def identity(self):
        return self.c.port, self.c.netns

    @property
    def counters(self):
        return self.c.calls, self.c.sent

    def run(self, Template template not None, const uint8_t[::1] slots=b"", uint64_t deadline_ns=0):
        cdef enl_fail f
        cdef const uint8_t *at = checked(slots, template.size)
        with nogil:
            done = enl_run(&self.c, &template.c, at, deadline_ns, &f)
        if done < 0:
            raise refused(&f, template.names)
        return done

    def new_link(self, Template template not None, const uint8_t[::1] slots=b"", uint64_t deadline_ns=0):
        cdef enl_fail f
        cdef enl_object o
        cdef const uint8_t *at = checked(slots, template.size)
        if template.names != ("veth_add",):
            raise ValueError("new_link() takes a template of exactly one veth_add")
        with nogil:
            bad = enl_new_link(&self.c, &template.c, at, deadline_ns, &o, &f)
        if bad:
            raise refused(&f, template.names, "of the host end")
        return o.index, o.peer

    def get_link(self, bytes name, uint32_t index, uint64_t deadline_ns=0):
        cdef enl_fail f
        cdef enl_object o
        cdef bytes padded = name.ljust(16, b"\0")
        cdef const char *text = padded
        cdef int found
        with nogil:
            found = enl_get_link(&self.c, index, text, deadline_ns, &o, &f)
        if found < 0:
            raise refused(&f, ())
        return thing(&o) if found else None


include "_netlink_read.pxi"


def pod_add(Socket host not None, Socket pod not None, Shape shape not None, uint8_t[::1] slots not None,
            uint8_t[::1] took, uint64_t deadline_ns):
    cdef enl_fail f
    cdef enl_took spent
    checked(slots, shape.size)
    if took is not None:
        checked(took, sizeof(spent))
    with nogil:
        index = enl_pod_add(&host.c, &pod.c, &shape.c, &slots[0], deadline_ns, &spent, &f)
    if took is not None:
        memcpy(&took[0], &spent, sizeof(spent))
    if index < 0:
        raise refused(&f, shape.templates, bytes(slots[shape.c.host_name:][:16]).rstrip(b"\0").decode())
    return index


def pod_del(Socket host not None, Shape shape not None, uint8_t[::1] slots not None, uint64_t deadline_ns):
    cdef enl_fail f
    checked(slots, shape.size)
    with nogil:
        index = enl_pod_del(&host.c, &shape.c, &slots[0], deadline_ns, &f)
    if index < 0:
        raise refused(&f, shape.templates[4].names)
    return index


def group_delete(Socket host not None, const uint32_t[::1] indexes not None, uint32_t group, uint64_t deadline_ns):
    cdef enl_fail f
    with nogil:
        done = enl_group_delete(&host.c, &indexes[0], <uint32_t> indexes.shape[0], group, deadline_ns, &f)
    if done < 0:
        raise refused(&f, ())
    return done
