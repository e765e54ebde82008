# What netlink.c offers (its contract is in netlink.h), and the fields of the classes of _netlink.pyx.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "netlink.h" nogil:
    cdef struct enl_sock:
        int fd
        uint32_t port, seq
        uint64_t netns, calls, sent
    cdef struct enl_patch:
        uint16_t at
    cdef struct enl_message:
        uint16_t at
    cdef struct enl_template:
        const uint8_t *data
        const enl_patch *patch
        const enl_message *message
        uint32_t size, patches, messages, slots
    cdef struct enl_fail:
        int32_t error, index
        int phase
        const char *call
        bint undone, taken
        uint32_t holder_index, holder_flags
        uint8_t holder_mac[6]
        char text[128]
    cdef struct enl_object:
        uint16_t type, flags, state
        uint32_t seq, port
        int32_t error, peer_nsid
        uint8_t family, scope, protocol, kind, operstate, dst_bits, src_bits, dst_size, src_size, gateway_size, mac_size
        uint32_t index, link_flags, mtu, peer, group, table, priority, fwmark, fwmask
        uint8_t dst[16]
        uint8_t src[16]
        uint8_t gateway[16]
        uint8_t mac[16]
        char name[16]
        char link_kind[16]
    cdef struct enl_shape:
        enl_template link, host, pod, undo, remove
        uint16_t host_index, pod_index, host_name, host_mac
        bint sysctls
    cdef struct enl_took:
        uint64_t calls
    int enl_open(enl_sock *, uint32_t)
    int enl_adopt(enl_sock *, int, bint)
    void enl_close(enl_sock *)
    bint enl_template_ok(const enl_template *)
    int enl_run(enl_sock *, const enl_template *, const uint8_t *, uint64_t, enl_fail *)
    int enl_new_link(enl_sock *, const enl_template *, const uint8_t *, uint64_t, enl_object *, enl_fail *)
    int enl_get_link(enl_sock *, uint32_t, const char *, uint64_t, enl_object *, enl_fail *)
    int64_t enl_pod_add(enl_sock *, enl_sock *, const enl_shape *, uint8_t *, uint64_t, enl_took *, enl_fail *)
    int64_t enl_pod_del(enl_sock *, const enl_shape *, uint8_t *, uint64_t, enl_fail *)
    int enl_group_delete(enl_sock *, const uint32_t *, uint32_t, uint32_t, uint64_t, enl_fail *)
    int enl_dump(enl_sock *, uint16_t, uint8_t, uint32_t)
    int64_t enl_receive(enl_sock *, uint8_t *, uint32_t, bint, uint64_t)
    int enl_next(const uint8_t *, uint32_t, uint32_t *, enl_object *)
    int64_t enl_set_fault(int64_t, int, int)


cdef class Template:
    cdef enl_template c
    cdef readonly bytes data, patches, messages
    cdef readonly tuple names
    cdef readonly dict layout
    cdef readonly int size


cdef class Shape:
    cdef enl_shape c
    cdef readonly tuple templates
    cdef readonly int size


cdef class Socket:
    cdef enl_sock c


cdef class Monitor(Socket):
    cdef set own
    cdef bint deletions_only
