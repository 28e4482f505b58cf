# libmodel and its commands.  Everything is found by wildcard: a new file in a
# room is built on the day it is added.
#
#   make [config=release|debug|sanitize|fuzz] [CC=gcc|clang] [BUILD=folder]
#   make check            all tests (tests/run does this after installing packages)
#   make bench            benchmarks against the peers that are installed
#   make install [PREFIX=/usr/local] [DESTDIR=], make uninstall
#   make deb              build/deb: Debian packages
#   make tarball          build/tarball: unpack and run (tests/make-tarball says on which machines)
#   make bundle           build/bundle: commands with their shared libraries, for a cluster
#   make gpu-check        every CUDA operation against the CPU, models, quantizers, speed [PARTS="ops quant"]
#   make check-layers     only the allowed #includes exist

config  ?= release
CC      ?= gcc
AR      ?= ar
PREFIX  ?= /usr/local
DESTDIR ?=
BUILD   ?= build/$(config)
V       ?= @

VERSION  := $(shell sed -n 's/^\#define LM_VERSION "\(.*\)"/\1/p' libmodel/libmodel.h)
SOMAJOR  := 0
PACKAGES := jansson libpcre2-8 libutf8proc zlib libcrypto hdf5 libseccomp

# ---- compilers and flags

ifeq ($(origin CC),default)
CC := gcc
endif
NVCC     ?= $(firstword $(wildcard /usr/local/cuda/bin/nvcc) $(shell command -v nvcc 2>/dev/null))
machine  := $(shell $(CC) -dumpmachine 2>/dev/null)

WARN     := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Werror
PARSER   := -Wconversion -Wsign-conversion
# No contraction anywhere: the bytes of a quantized file must not depend on the
# compiler's taste.  Kernels that want fused multiply-add say so by intrinsic.
CFLAGS_ALL := -std=c17 -D_GNU_SOURCE -I. $(WARN) -ffp-contract=off -fno-math-errno -fopenmp -fPIC -MMD -MP \
              -ffile-prefix-map=$(CURDIR)=. \
              -DLM_LIBDIR='"$(PREFIX)/lib/libmodel/$(SOMAJOR)"' $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
LDLIBS   := -Wl,--as-needed $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lm -ldl -lpthread

ifeq ($(config),release)
CFLAGS_ALL += -O3 -g
else ifeq ($(config),debug)
CFLAGS_ALL += -O0 -g3
else ifeq ($(config),sanitize)
CFLAGS_ALL += -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
LDFLAGS    += -fsanitize=address,undefined
else ifeq ($(config),fuzz)
CC := clang
CFLAGS_ALL += -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
LDFLAGS    += -fsanitize=address,undefined
else
$(error config=$(config): expected release, debug, sanitize or fuzz)
endif
# clang says of every omp simd loop that it did not vectorize, below -O2.
ifneq ($(findstring clang,$(shell $(CC) --version 2>/dev/null)),)
CFLAGS_ALL += -Wno-pass-failed
endif
CFLAGS_ALL += $(CFLAGS)

# ---- files

lib_src  := $(wildcard libmodel/*.c libmodel/*/*.c)
conv_src := $(wildcard convert/*.c)
gpu_src  := $(wildcard gpu/*.c)
cu_src   := $(wildcard gpu/*.cu)
main_src := $(wildcard cmd/lm-*.c) cmd/lm.c
cli_src  := $(filter-out $(main_src),$(wildcard cmd/*.c))
test_src := $(wildcard tests/test_*.c)
fuzz_src := $(wildcard tests/fuzz/fuzz_*.c)
bench_src := $(wildcard tests/bench/*.c)
tool_src := $(wildcard samples/*.c)

obj       = $(patsubst %.c,$(BUILD)/%.o,$(1))
lib_obj  := $(call obj,$(lib_src))
room_obj := $(lib_obj) $(call obj,$(conv_src) $(gpu_src))
cmds     := $(patsubst cmd/%.c,$(BUILD)/%,$(wildcard $(main_src)))
tests    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(test_src))
fuzzers  := $(patsubst tests/fuzz/%.c,$(BUILD)/tests/%,$(fuzz_src))
benches  := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(bench_src))
tools    := $(patsubst samples/%.c,$(BUILD)/samples/%,$(tool_src))
solib    := $(BUILD)/libmodel.so.$(SOMAJOR)
alib     := $(BUILD)/libmodel.a
rooms    := $(BUILD)/librooms.a

.PHONY: all lib check bench install uninstall deb tarball bundle gpu-check check-layers clean fuzzers man completions
.DELETE_ON_ERROR:
.SECONDARY:
all: lib $(cmds) $(tools) plugin
lib: $(solib) $(alib) $(BUILD)/libmodel.pc

# ---- rules

# Files for one instruction set: chosen at run time, compiled everywhere.
isa_flags =
ifneq ($(filter x86_64%,$(machine)),)
isa_flags = $(if $(findstring _avx512,$(1)),-mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512vbmi -mavx2 -mfma -mf16c -mbmi2)$(if $(findstring _avx2,$(1)),-mavx2 -mfma -mf16c -mbmi2)
endif
parser_flags = $(if $(filter libmodel/fmt/% libmodel/parse/% libmodel/tok/% libmodel/jinja/% libmodel/bytes.c libmodel/model.c libmodel/meta.c libmodel/tensor.c \
    libmodel/open_dir.c libmodel/sidecar.c libmodel/format.c libmodel/err.c libmodel/map.c,$(1)),$(PARSER))

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC    $<"
	$(V)$(CC) $(CFLAGS_ALL) $(call isa_flags,$<) $(call parser_flags,$<) -c -o $@ $<

# Pages that are part of a command.
$(BUILD)/cmd/audit_html.o: cmd/audit_page.html
$(BUILD)/cmd/tokenize_html.o: cmd/tokenize_page.html
$(BUILD)/cmd/trace_html.o: cmd/trace_page.html
$(BUILD)/cmd/verify_html.o: cmd/verify_page.html

$(alib): $(lib_obj)
	@echo "  AR    $@"
	@rm -f $@
	$(V)$(AR) rcsD $@ $^

$(rooms): $(room_obj) $(call obj,$(cli_src))
	@rm -f $@
	$(V)$(AR) rcsD $@ $^

$(solib): $(lib_obj) libmodel/libmodel.map
	@echo "  LD    $@"
	$(V)$(CC) $(LDFLAGS) -shared -fopenmp -Wl,-soname,libmodel.so.$(SOMAJOR) -Wl,--version-script=libmodel/libmodel.map \
	    -o $@ $(lib_obj) $(LDLIBS)
	@ln -sf $(@F) $(BUILD)/libmodel.so

$(BUILD)/libmodel.pc: Makefile libmodel/libmodel.h
	@mkdir -p $(@D)
	@printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$${prefix}/lib' 'includedir=$${prefix}/include' '' 'Name: libmodel' \
	    'Description: reads and writes large-language-model checkpoints' 'Version: $(VERSION)' \
	    'Requires.private: $(PACKAGES)' 'Libs: -L$${libdir} -lmodel' 'Libs.private: -lm -ldl -lpthread -fopenmp' \
	    'Cflags: -I$${includedir}' > $@

# Libraries beside the folder of a program come first: that is what a bundle has.
link = @echo "  LD    $@"; $(CC) $(LDFLAGS) -fopenmp -rdynamic -Wl,-rpath,'$$ORIGIN/../lib' -o $@ $(1) $(rooms) $(2) $(LDLIBS)

$(BUILD)/lm: $(BUILD)/cmd/lm.o $(rooms)
	$(call link,$<)
$(BUILD)/lm-%: $(BUILD)/cmd/lm-%.o $(rooms)
	$(call link,$<)
$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(rooms)
	@mkdir -p $(@D)
	$(call link,$<,-lcmocka)
$(BUILD)/samples/%: $(BUILD)/samples/%.o $(rooms)
	$(call link,$<)
$(BUILD)/bench/%: $(BUILD)/tests/bench/%.o $(rooms)
	@mkdir -p $(@D)
	$(call link,$<)

# A fuzz target is one LLVMFuzzerTestOneInput; without libFuzzer a small driver
# replays files, so the corpus is part of the ordinary tests.
ifeq ($(config),fuzz)
$(BUILD)/tests/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(rooms)
	@mkdir -p $(@D)
	$(call link,$< -fsanitize=fuzzer)
else
$(BUILD)/tests/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/replay.o $(rooms)
	@mkdir -p $(@D)
	$(call link,$< $(BUILD)/tests/fuzz/replay.o)
endif
fuzzers: $(fuzzers)

# ---- the CUDA plugin: compiled wherever nvcc is, run only where a GPU is

.PHONY: plugin
ifneq ($(filter sanitize fuzz,$(config)),)
plugin: # the sanitizers' objects do not go into a plugin
else ifneq ($(and $(NVCC),$(cu_src)),)
plugin: $(BUILD)/libmodel-cuda.so
# No contraction, as for C: a sum must not depend on which kernel it is in.
NVFLAGS := -std=c++17 -O3 -fmad=false -I. -Xcompiler -fPIC,-Wall,-Wextra,-fvisibility=hidden -lineinfo \
           --expt-relaxed-constexpr --compress-mode=size \
           -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90,code=sm_90 \
           -gencode arch=compute_90,code=compute_90
cu_obj := $(patsubst %.cu,$(BUILD)/%.cu.o,$(cu_src))
$(BUILD)/%.cu.o: %.cu $(wildcard gpu/*.cuh gpu/*.h libmodel/*.h)
	@mkdir -p $(@D)
	@echo "  NVCC  $<"
	$(V)$(NVCC) $(NVFLAGS) -c -o $@ $<
$(BUILD)/libmodel-cuda.so: $(cu_obj) $(alib)
	@echo "  LD    $@"
	$(V)$(NVCC) -shared -o $@ $(cu_obj) $(alib) -Xcompiler -fopenmp,-static-libstdc++,-static-libgcc -Xlinker --exclude-libs,ALL \
	    -Xlinker --as-needed -Xlinker -z -Xlinker defs -Xlinker -rpath -Xlinker '$$ORIGIN/../..' \
	    -lcublas $(filter -l% -L%,$(LDLIBS))
else
plugin:
	@echo "  --    no nvcc here: the CUDA plugin is not built, every command runs on the CPU"
endif

# ---- tests

check: all $(tests) $(fuzzers) check-layers
	$(V)tests/check $(BUILD)

bench: all $(benches)
	$(V)tests/bench/run $(BUILD)

check-layers:
	$(V)tests/check-layers

gpu-check: all $(filter $(BUILD)/tests/test_cuda_%,$(tests)) $(BUILD)/bench/bench_cuda
	$(V)tests/gpu/check $(BUILD) $(PARTS)

# ---- what users get

share := $(DESTDIR)$(PREFIX)/share
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/lib/libmodel/$(SOMAJOR) \
	    $(DESTDIR)$(PREFIX)/include/libmodel $(share)/man/man1 $(share)/man/man3 $(share)/bash-completion/completions \
	    $(share)/zsh/site-functions $(share)/fish/vendor_completions.d
	install -m 755 $(cmds) $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(solib) $(DESTDIR)$(PREFIX)/lib
	ln -sf libmodel.so.$(SOMAJOR) $(DESTDIR)$(PREFIX)/lib/libmodel.so
	install -m 644 $(alib) $(DESTDIR)$(PREFIX)/lib
	sed 's|^prefix=.*|prefix=$(PREFIX)|' $(BUILD)/libmodel.pc >$(DESTDIR)$(PREFIX)/lib/pkgconfig/libmodel.pc
	install -m 644 libmodel/*.h libmodel/*.def $(DESTDIR)$(PREFIX)/include/libmodel
	install -m 644 libmodel/libmodel.3 $(share)/man/man3
	if [ -f $(BUILD)/libmodel-cuda.so ]; then \
	    install -m 755 $(BUILD)/libmodel-cuda.so $(DESTDIR)$(PREFIX)/lib/libmodel/$(SOMAJOR); fi
	for c in $(notdir $(cmds)); do \
	    $(BUILD)/$$c --man > $(share)/man/man1/$$c.1 && \
	    $(BUILD)/$$c --completions > $(share)/bash-completion/completions/$$c && \
	    $(BUILD)/$$c --completions=zsh > $(share)/zsh/site-functions/_$$c && \
	    $(BUILD)/$$c --completions=fish > $(share)/fish/vendor_completions.d/$$c.fish || exit 1; done

uninstall:
	for c in $(notdir $(cmds)); do \
	    rm -f $(DESTDIR)$(PREFIX)/bin/$$c $(share)/man/man1/$$c.1 $(share)/bash-completion/completions/$$c \
	        $(share)/zsh/site-functions/_$$c $(share)/fish/vendor_completions.d/$$c.fish; done
	rm -f $(DESTDIR)$(PREFIX)/lib/libmodel.so* $(DESTDIR)$(PREFIX)/lib/libmodel.a \
	    $(DESTDIR)$(PREFIX)/lib/pkgconfig/libmodel.pc $(share)/man/man3/libmodel.3
	rm -rf $(DESTDIR)$(PREFIX)/include/libmodel $(DESTDIR)$(PREFIX)/lib/libmodel

# build/deb: Debian packages of the commands, the library with its headers, and the CUDA plugin.
deb: all
	$(V)tests/make-deb $(BUILD) build/deb $(VERSION)

# build/tarball: runs where it is unpacked, on the glibc it was built with or a later one.
tarball: all
	$(V)tests/make-tarball $(BUILD) build/tarball $(VERSION)

bundle: all $(filter $(BUILD)/tests/test_cuda_%,$(tests)) $(BUILD)/bench/bench_cuda
	$(V)tests/make-bundle $(BUILD) build/bundle

clean:
	rm -rf build

-include $(wildcard $(BUILD)/*/*.d $(BUILD)/*/*/*.d)
