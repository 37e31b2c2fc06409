# SPDX-License-Identifier: Apache-2.0
#
# Builds libvdisk, the tools, the tests and the fuzz targets. `make help` lists the targets.
#
# Sources are found by wildcard: a new file needs no edit here. A variant (SAN=, COVERAGE=,
# FUZZ=, ANALYZE=) has a build directory of its own, so variants do not undo each other's work;
# changed flags within one directory rebuild what they touch.

.SUFFIXES:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all
MAKEFLAGS += --no-print-directory

# ---- settings -----------------------------------------------------------------------------

PREFIX ?= /usr/local
DESTDIR ?=
ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS ?= -O2 -g
PKG_CONFIG ?= pkg-config
SAN ?=
FUZZ_SECONDS ?= 60
SEED ?= 1
RUNS ?= 1000
PACKAGES := libsodium libzstd libcrypto
# On top of these, for the daemon.
DAEMON_PACKAGES := liburing jansson libssl libseccomp
# For looking at what is on a drive, and for mounting it.
FILES_PACKAGES := ext2fs com_err blkid
FUSE_PACKAGES := fuse3

comma := ,
variant_of = $(if $(filter address%,$(1)),asan,$(if $(filter thread,$(1)),tsan,san-$(subst $(comma),-,$(1))))
BUILD ?= build$(if $(SAN),/$(call variant_of,$(SAN)))

# ---- flags --------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
            -Wconversion -Wno-sign-conversion $(if $(filter 1,$(WERROR)),-Werror)

SANITIZE := $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)

# _FORTIFY_SOURCE wants an optimised build and hides accesses from the sanitizers.
optimised := $(filter-out -O0,$(lastword $(filter -O%,$(CFLAGS))))
HARDEN := -fstack-protector-strong -fPIE \
          $(if $(SAN),,$(if $(optimised),-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2))
HARDEN_LINK := -pie -Wl,-z,relro -Wl,-z,now -Wl,-z,noexecstack

EXTRA := $(if $(FUZZ),-fsanitize=fuzzer-no-link) $(if $(COVERAGE),--coverage) \
         $(if $(ANALYZE),-fanalyzer)

# Programs see only the public headers; tests also see the library's own.
INCLUDES_libvdisk := -Iinclude -Ilibvdisk
INCLUDES_tools := -Iinclude -Itools -Ibackup -Ifuse
INCLUDES_backup := -Iinclude -Ibackup -Itools
INCLUDES_fuse = -Iinclude -Ifuse -Ivdiskd -Itools -Ibackup $(FUSE_CFLAGS)
INCLUDES_vdiskd := -Iinclude -Ivdiskd -Itools -Ibackup
INCLUDES_vmm := -Iinclude -Ivmm -Ivdiskd -Itools
INCLUDES_bench := -Iinclude -Ivdiskd -Itests
INCLUDES_tests = -Iinclude -Ilibvdisk -Itests -Itools -Ibackup -Ifuse -Ivdiskd -Ivmm $(FUSE_CFLAGS)
INCLUDES_fuzz = $(INCLUDES_tests) -Ifuzz

# A goal that compiles nothing works without the libraries.
ifneq ($(filter-out clean help format format-check uninstall,$(or $(MAKECMDGOALS),all)),)
ifneq ($(shell $(PKG_CONFIG) --exists $(PACKAGES) $(DAEMON_PACKAGES) $(FILES_PACKAGES) $(FUSE_PACKAGES) 2>/dev/null && echo found),found)
$(error $(PKG_CONFIG) does not find $(PACKAGES) $(DAEMON_PACKAGES) $(FILES_PACKAGES) $(FUSE_PACKAGES): ./quickstart installs what a build needs)
endif
PACKAGE_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PACKAGES))
PACKAGE_LIBS := $(shell $(PKG_CONFIG) --libs $(PACKAGES))
JSON_LIBS := $(shell $(PKG_CONFIG) --libs jansson)
DAEMON_LIBS := $(shell $(PKG_CONFIG) --libs $(DAEMON_PACKAGES))
TOOL_LIBS := $(JSON_LIBS) $(shell $(PKG_CONFIG) --libs $(FILES_PACKAGES))
FUSE_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(FUSE_PACKAGES))
FUSE_LIBS := $(shell $(PKG_CONFIG) --libs $(FUSE_PACKAGES))
endif

COMPILE = $(CC) -std=gnu11 -D_GNU_SOURCE -pthread $(WARNINGS) $(HARDEN) $(SANITIZE) $(EXTRA) \
          $(PACKAGE_CFLAGS) $(CPPFLAGS) $(CFLAGS)
LINK = $(CC) -pthread $(HARDEN_LINK) $(SANITIZE) $(if $(COVERAGE),--coverage) $(CFLAGS) $(LDFLAGS)
LIBS = $(PACKAGE_LIBS) $(LDLIBS)

# ---- sources ------------------------------------------------------------------------------

objects = $(patsubst %,$(BUILD)/obj/%.o,$(1))

LIB_OBJECTS := $(call objects,$(wildcard libvdisk/*.c libvdisk/*.S))
TOOL_OBJECTS := $(call objects,$(wildcard tools/*.c))
# What other programs and tests may take from tools/: all but its main program.
SHARED_OBJECTS := $(filter-out %/vdisk.c.o,$(TOOL_OBJECTS))
BACKUP_OBJECTS := $(call objects,$(wildcard backup/*.c))
FUSE_OBJECTS := $(call objects,$(wildcard fuse/*.c))
DAEMON_OBJECTS := $(call objects,$(wildcard vdiskd/*.c))
# The VMM knows one kind of processor; everything else is for all.
IS_X86 := $(filter x86_64%,$(if $(PACKAGE_LIBS),$(shell $(CC) -dumpmachine)))
of_vmm = $(if $(IS_X86),,$(1))
VMM_OBJECTS := $(if $(IS_X86),$(call objects,$(wildcard vmm/*.c)))
TEST_SOURCES := $(filter-out $(call of_vmm,tests/test_vm_%),$(wildcard tests/test_*.c))
KIT_OBJECTS := $(call objects,$(filter-out tests/test_% $(call of_vmm,tests/vm_%),$(wildcard tests/*.c)))
FUZZ_SOURCES := $(filter-out $(call of_vmm,fuzz/fuzz_vm_%),$(wildcard fuzz/fuzz_*.c))
# Stands in for libFuzzer, so that `make check` runs every corpus.
FUZZ_DRIVER := $(call objects,fuzz/driver.c)
FUZZ_KIT_OBJECTS := $(filter-out $(FUZZ_DRIVER),$(call objects,$(filter-out $(FUZZ_SOURCES),$(wildcard fuzz/*.c))))

LIBRARY := $(BUILD)/libvdisk.a
TESTKIT := $(BUILD)/libtestkit.a
SHARED := $(BUILD)/libshared.a
BACKUP_LIBRARY := $(BUILD)/libvdiskbackup.a
FUSE_LIBRARY := $(BUILD)/libvdiskfuse.a
# What more than one program is made of, in the order of linking.
COMMON := $(FUSE_LIBRARY) $(BACKUP_LIBRARY) $(SHARED) $(LIBRARY)
DAEMON_LIBRARY := $(BUILD)/libvdiskd.a
VMM_LIBRARY := $(BUILD)/libvmm.a
PROGRAMS := $(BUILD)/bin/vdisk $(BUILD)/bin/vdiskd $(if $(wildcard fuse/vdisk_fuse.c),$(BUILD)/bin/vdisk-fuse) $(if $(IS_X86),$(if $(wildcard vmm/vdisk_vmm.c),$(BUILD)/bin/vdisk-vmm))
TEST_PROGRAMS := $(TEST_SOURCES:tests/%.c=$(BUILD)/tests/%)
FUZZ_PROGRAMS := $(FUZZ_SOURCES:fuzz/%.c=$(BUILD)/%)
CORPUS_PROGRAMS := $(FUZZ_SOURCES:fuzz/fuzz_%.c=$(BUILD)/tests/corpus_%)
# Other scripts in tests/ are what these source, and what runs in guests.
SCENARIOS := $(wildcard tests/scenario_*.sh)

# ---- building -----------------------------------------------------------------------------

.PHONY: all lib tests fuzz-programs FORCE
all: $(PROGRAMS)
lib: $(LIBRARY)
tests: $(TEST_PROGRAMS)
fuzz-programs: $(FUZZ_PROGRAMS)

# One short line for each step; the whole command with V=1; nothing with -s.
silent := $(findstring s,$(filter-out --%,$(firstword -$(MAKEFLAGS))))
quiet := $(if $(V),,@)
say = $(if $(V)$(silent),,@printf '  %-4s %s\n' '$(1)' '$(2)')

# A file that holds a value and becomes newer only when the value changes.
quote = '$(subst ','\'',$(strip $(1)))'
remember = @mkdir -p $(@D); printf '%s\n' $(call quote,$(1)) | cmp -s - $@ || \
           printf '%s\n' $(call quote,$(1)) >$@
$(BUILD)/compile-flags: FORCE
	$(call remember,$(COMPILE))
$(BUILD)/link-flags: FORCE
	$(call remember,$(LINK) $(LIBS))
$(BUILD)/members: FORCE
	$(call remember,$(LIB_OBJECTS) : $(TOOL_OBJECTS) : $(BACKUP_OBJECTS) : $(FUSE_OBJECTS) : $(DAEMON_OBJECTS) : $(VMM_OBJECTS) : $(KIT_OBJECTS) : $(FUZZ_KIT_OBJECTS))

$(BUILD)/obj/%.c.o: %.c $(BUILD)/compile-flags
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(quiet)$(COMPILE) $(INCLUDES_$(patsubst %/,%,$(dir $<))) -MMD -MP -c -o $@ $<

$(BUILD)/obj/%.S.o: %.S $(BUILD)/compile-flags
	@mkdir -p $(@D)
	$(call say,AS,$<)
	$(quiet)$(COMPILE) $(INCLUDES_$(patsubst %/,%,$(dir $<))) -Wa,--noexecstack -MMD -MP -c -o $@ $<

archive = $(quiet)rm -f $@; $(AR) rcs $@ $(filter %.o,$^)

$(LIBRARY): $(LIB_OBJECTS) $(BUILD)/members
	$(call say,AR,$@)
	$(archive)

$(TESTKIT): $(KIT_OBJECTS) $(BUILD)/members
	$(call say,AR,$@)
	$(archive)

$(SHARED): $(SHARED_OBJECTS) $(BUILD)/members
	$(call say,AR,$@)
	$(archive)

$(BACKUP_LIBRARY): $(BACKUP_OBJECTS) $(BUILD)/members
	$(call say,AR,$@)
	$(archive)

$(FUSE_LIBRARY): $(filter-out %/vdisk_fuse.c.o,$(FUSE_OBJECTS)) $(BUILD)/members
	$(call say,AR,$@)
	$(archive)

$(VMM_LIBRARY): $(filter-out %/vdisk_vmm.c.o,$(VMM_OBJECTS)) $(BUILD)/members
	$(call say,AR,$@)
	$(archive)

$(DAEMON_LIBRARY): $(filter-out %/vdiskd.c.o,$(DAEMON_OBJECTS)) $(BUILD)/members
	$(call say,AR,$@)
	$(archive)

link = $(quiet)mkdir -p $(@D); $(LINK) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(1) $(LIBS)

$(BUILD)/bin/vdisk: $(TOOL_OBJECTS) $(COMMON) $(BUILD)/link-flags $(BUILD)/members
	$(call say,LD,$@)
	$(call link,$(TOOL_LIBS))

$(BUILD)/bin/vdisk-fuse: $(filter %/vdisk_fuse.c.o,$(FUSE_OBJECTS)) $(FUSE_LIBRARY) $(DAEMON_LIBRARY) $(COMMON) \
                         $(BUILD)/link-flags $(BUILD)/members
	$(call say,LD,$@)
	$(call link,$(DAEMON_LIBS) $(TOOL_LIBS) $(FUSE_LIBS))

$(BUILD)/bin/vdiskd: $(filter %/vdiskd.c.o,$(DAEMON_OBJECTS)) $(DAEMON_LIBRARY) $(COMMON) \
                     $(BUILD)/link-flags $(BUILD)/members
	$(call say,LD,$@)
	$(call link,$(DAEMON_LIBS))

$(BUILD)/bin/vdisk-vmm: $(filter %/vdisk_vmm.c.o,$(VMM_OBJECTS)) $(VMM_LIBRARY) $(DAEMON_LIBRARY) $(COMMON) \
                        $(BUILD)/link-flags $(BUILD)/members
	$(call say,LD,$@)
	$(call link,$(DAEMON_LIBS))

# What a test needs to be linked with besides is in tests/NAME.ldflags.
$(TEST_PROGRAMS): $(BUILD)/tests/%: $(BUILD)/obj/tests/%.c.o $(TESTKIT) $(FUSE_LIBRARY) $(VMM_LIBRARY) $(DAEMON_LIBRARY) \
                  $(COMMON) $(BUILD)/link-flags $(wildcard tests/*.ldflags)
	$(call say,LD,$@)
	$(call link,$(strip $(file <tests/$*.ldflags)) $(DAEMON_LIBS) $(TOOL_LIBS) $(FUSE_LIBS) -lcmocka -lm)

$(BUILD)/bench/%: $(BUILD)/obj/bench/%.c.o $(TESTKIT) $(COMMON) $(BUILD)/link-flags
	$(call say,LD,$@)
	$(call link)

$(FUZZ_PROGRAMS): $(BUILD)/%: $(BUILD)/obj/fuzz/%.c.o $(FUZZ_KIT_OBJECTS) \
                  $(TESTKIT) $(FUSE_LIBRARY) $(VMM_LIBRARY) $(DAEMON_LIBRARY) $(COMMON) $(BUILD)/link-flags
	$(call say,LD,$@)
	$(call link,-fsanitize=fuzzer $(DAEMON_LIBS) $(TOOL_LIBS) $(FUSE_LIBS) -lcmocka -lm)

$(CORPUS_PROGRAMS): $(BUILD)/tests/corpus_%: $(BUILD)/obj/fuzz/fuzz_%.c.o $(FUZZ_DRIVER) \
                    $(FUZZ_KIT_OBJECTS) $(TESTKIT) $(FUSE_LIBRARY) $(VMM_LIBRARY) $(DAEMON_LIBRARY) $(COMMON) \
                    $(BUILD)/link-flags
	$(call say,LD,$@)
	$(call link,$(DAEMON_LIBS) $(TOOL_LIBS) $(FUSE_LIBS) -lcmocka -lm)

-include $(wildcard $(BUILD)/obj/*/*.d)

# ---- testing ------------------------------------------------------------------------------

.PHONY: check check-long check-crash check-faults check-tsan check-mutants sim fuzz coverage

# TESTS="test_map scenario_*" runs, and builds, only what matches.
TEST_NAMES := $(basename $(notdir $(TEST_SOURCES) $(CORPUS_PROGRAMS) $(SCENARIOS)))
ifneq ($(strip $(TESTS)),)
TEST_NAMES := $(shell set -f; for name in $(TEST_NAMES); do for wanted in $(TESTS); do \
                case $$name in ($$wanted) echo $$name; break;; esac; done; done)
endif
CHOSEN_TESTS := $(filter $(addprefix $(BUILD)/tests/,$(TEST_NAMES)),$(TEST_PROGRAMS) \
                  $(CORPUS_PROGRAMS)) \
                $(filter $(addprefix tests/,$(addsuffix .sh,$(TEST_NAMES))),$(SCENARIOS))
# These have a test's program write tables, or a guest.
SCENARIOS_NEED := $(if $(filter %/scenario_vm_acpi.sh,$(CHOSEN_TESTS)),$(filter %/test_vm_acpi,$(TEST_PROGRAMS))) \
                  $(if $(filter %/scenario_vm_suspend.sh %/scenario_vm_run.sh %/scenario_backup_run.sh,$(CHOSEN_TESTS)),$(filter %/test_vm_suspend_ctl,$(TEST_PROGRAMS)))

# The proofs about memory run a second time, under sanitizers.
WATCHED := test_model test_faults test_header test_image
WATCHED_TESTS := $(if $(SAN)$(COVERAGE),,$(addprefix $(BUILD)/asan/tests/,$(filter $(WATCHED),\
                   $(filter $(TEST_NAMES),$(notdir $(TEST_PROGRAMS))))))

.PHONY: watched
watched:
	@$(if $(WATCHED_TESTS),$(MAKE) BUILD=$(BUILD)/asan SAN=address$(comma)undefined $(WATCHED_TESTS))

check: $(PROGRAMS) $(filter $(BUILD)/%,$(CHOSEN_TESTS)) $(SCENARIOS_NEED) watched
	@tests/run --build $(BUILD) $(if $(SAN),--sanitizer $(SAN)) $(addprefix --share ,$(SHARE)) \
	           $(CHOSEN_TESTS) $(WATCHED_TESTS)

# The same tests, told to take their time: more seeds, longer runs, larger images; and fuzzing.
check-long:
	@$(MAKE) fuzz
	@VDISK_TEST_LONG=1 VDISK_TEST_TIMEOUT=$${VDISK_TEST_TIMEOUT:-7200} \
	 $(MAKE) check SHARE='test_tamper test_model test_backup_tamper test_backup_model test_backup_image'
check-crash:
	@VDISK_TEST_LONG=1 $(MAKE) check TESTS='$(or $(TESTS),*crash*)'
check-faults:
	@VDISK_TEST_LONG=1 $(MAKE) check TESTS='$(or $(TESTS),*fault*)'
check-tsan:
	@$(MAKE) check SAN=thread
# Takes out a barrier, a tag check, a counter step in turn: each time a test must fail.
check-mutants:
	@test -f tests/mutants.sh || { echo "check-mutants: there is no tests/mutants.sh" >&2; exit 1; }
	@CC='$(CC)' bash tests/mutants.sh

sim: $(BUILD)/tests/test_crash
	$(BUILD)/tests/test_crash --seed $(SEED) --runs $(RUNS)

# T=map or T="map keyslots" picks targets; FUZZ_SECONDS=0 only replays the corpora.
fuzz:
	@$(MAKE) BUILD=build/fuzz CC=clang SAN=address,undefined FUZZ=1 fuzz-programs
	@scripts/fuzz.sh build/fuzz $(FUZZ_SECONDS) $(or $(T),$(FUZZ_SOURCES:fuzz/fuzz_%.c=%))

coverage:
	@rm -rf build/coverage/obj/*/*.gcda
	@$(MAKE) BUILD=build/coverage CC=gcc SAN= COVERAGE=1 CFLAGS='-O0 -g' check
	@scripts/coverage.sh build/coverage

# ---- looking at the source ----------------------------------------------------------------

.PHONY: format format-check lint tidy analyze

FORMATTED = $(shell find . -path ./build -prune -o -path ./.git -prune -o -name '*.[ch]' -print)
format:
	@clang-format -i $(FORMATTED)
format-check:
	@clang-format --dry-run --Werror $(FORMATTED)
lint:
	@scripts/lint.sh
# The symbols are read from a plain build: a sanitizer adds its own.
tidy:
	@$(MAKE) BUILD=build SAN= lib
	@scripts/tidy.sh build/libvdisk.a
# clang's analyzer runs within `make lint`; this is gcc's.
analyze:
	@$(MAKE) BUILD=build/analyze CC=gcc SAN= ANALYZE=1 WERROR=1 all

# ---- trying, measuring, installing --------------------------------------------------------

.PHONY: demo bench install uninstall clean help

bench: $(patsubst bench/%.c,$(BUILD)/bench/%,$(wildcard bench/*.c))
demo: all
	@VDISK="$(abspath $(BUILD)/bin/vdisk)" bash scripts/demo.sh
bench: all $(filter %/test_vm_suspend_ctl,$(TEST_PROGRAMS))
	@VDISK="$(abspath $(BUILD)/bin/vdisk)" bash scripts/bench.sh
	@VDISK="$(abspath $(BUILD)/bin/vdisk)" bash scripts/bench_serve.sh
	@VDISK="$(abspath $(BUILD)/bin/vdisk)" bash scripts/bench_fuse.sh
	@VDISK="$(abspath $(BUILD)/bin/vdisk)" bash scripts/bench_suspend.sh
	@VDISK="$(abspath $(BUILD)/bin/vdisk)" bash scripts/bench_vm.sh
	@VDISK="$(abspath $(BUILD)/bin/vdisk)" bash scripts/bench_backup.sh

MAN_PAGES := $(wildcard man/*.[1-8])
COMPLETION := $(wildcard completion/vdisk)
completion_dir := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
unit_dir = $(DESTDIR)$(PREFIX)/lib/systemd/system
users_dir = $(DESTDIR)$(PREFIX)/lib/sysusers.d
doc_dir = $(DESTDIR)$(PREFIX)/share/doc/vdisk
man_path = $(DESTDIR)$(PREFIX)/share/man/man$(subst .,,$(suffix $(1)))/$(notdir $(1))

install: all
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(PROGRAMS) $(DESTDIR)$(PREFIX)/bin
	$(foreach page,$(MAN_PAGES),install -D -m 644 $(page) $(call man_path,$(page)) &&) true
	install -D -m 644 $(COMPLETION) $(completion_dir)/vdisk
	ln -sf vdisk $(completion_dir)/vdiskd
	ln -sf vdisk $(completion_dir)/vdisk-fuse
	install -d $(unit_dir)
	sed 's|@BINDIR@|$(PREFIX)/bin|' dist/vdiskd.service >$(unit_dir)/vdiskd.service
	install -m 644 dist/vdiskd.socket $(unit_dir)
	chmod 644 $(unit_dir)/vdiskd.service
	install -D -m 644 dist/vdiskd.conf $(users_dir)/vdiskd.conf
	install -D -m 644 dist/vdiskd.json $(doc_dir)/vdiskd.json
	install -m 644 docs/control.md docs/vmm-control.md $(doc_dir)

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(notdir $(PROGRAMS)))
	rm -f $(foreach page,$(MAN_PAGES),$(call man_path,$(page))) $(completion_dir)/vdisk
	rm -f $(completion_dir)/vdiskd $(completion_dir)/vdisk-fuse $(users_dir)/vdiskd.conf $(doc_dir)/vdiskd.json
	rm -f $(doc_dir)/control.md $(doc_dir)/vmm-control.md
	rm -f $(unit_dir)/vdiskd.service $(unit_dir)/vdiskd.socket

clean:
	rm -rf build

help:
	@echo 'make                  libvdisk and the tools, into build/bin'
	@echo 'make check            every test; TESTS="test_map scenario_*" for some of them,'
	@echo '                      SAN=address,undefined or SAN=thread under a sanitizer'
	@echo 'make check-long       the same with more seeds and longer runs'
	@echo 'make check-crash      power cuts only, long      make check-faults  failing I/O only, long'
	@echo 'make check-tsan       under the thread sanitizer'
	@echo 'make check-mutants    breaks the code in known places: a test must fail each time'
	@echo 'make sim SEED=n RUNS=n   the crash simulator from a seed'
	@echo 'make fuzz T=name FUZZ_SECONDS=60   one fuzz target, or all'
	@echo 'make format           clang-format in place      make format-check  or only check'
	@echo 'make lint             clang-tidy, cppcheck, shellcheck   make analyze       gcc -fanalyzer'
	@echo 'make tidy             layers, sizes, exported symbols, forbidden calls'
	@echo 'make coverage         lines reached by the tests'
	@echo 'make demo             the main job, in steps    make bench         measurements'
	@echo 'make install          PREFIX=/usr/local DESTDIR=; and uninstall'
	@echo 'Also: CC=clang, WERROR=1, V=1 (whole commands), CFLAGS, LDFLAGS.'
